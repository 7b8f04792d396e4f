"""Models and data as new users bring them go through `prune`."""

import copy
import logging
import math

import pytest
import torch
from cases import Net, assert_same, outputs
from networks import HALF, image_batches, image_network, prune_images, refusal
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


def test_one_budget_has_a_frontier_of_one_result():
    assert len(mipp.frontier(image_network(), image_batches(), HALF, mipp.methods.L1(), progress=False)) == 1


SEEING = [mipp.methods.MIPP(), mipp.methods.MIPP(collapse="l1"), mipp.methods.ThiNet(), mipp.methods.L1()]


@pytest.mark.parametrize("method", SEEING, ids=["moments", "samples", "watching", "refit"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_inside_the_network_is_put_down_to_a_group_and_a_batch(method, value):
    """Only the last samples of the third batch overflow; large batches are read in pieces, but numbered as given."""

    def forward(m, x):
        h = m.a(x)
        return m.b(torch.where(x.sum(1, keepdim=True) > 1e3, value, h))

    model = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    data = [torch.randn(200, 4) for _ in range(4)]
    data[2][190:] = 1e4
    message = refusal(mipp.CalibrationError, model=model, data=data, method=method)
    assert "group 'a'" in message
    assert "batch 2" in message


def assert_sensible(result, model, data) -> None:
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    assert all(result.plan.kept.values())
    assert all(0 <= lost <= whole + 1e-6 for lost, whole in result.plan.information.values())
    assert torch.isfinite(outputs(result.model, data)[0]).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_data_does_not_matter(scale):
    """Without biases the network is homogeneous: the same nodes are kept at every scale."""
    model = nn.Sequential(
        nn.Linear(6, 10, bias=False), nn.ReLU(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    )
    data = torch.randn(200, 6)
    plain, scaled = prune_images(model, [data]), prune_images(model, [data * scale])
    assert plain.plan.kept == scaled.plan.kept
    assert_sensible(scaled, model, data)
    assert_same(outputs(scaled.model, data), outputs(plain.model, data), rtol=1e-3)


@pytest.mark.parametrize("kind", ["rank-deficient", "constant", "duplicated", "scales apart", "few samples"])
def test_degenerate_activations_give_finite_plans(kind):
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(4 if kind == "few samples" else 100, 6)
    with torch.no_grad():
        if kind == "rank-deficient":
            model[0].weight[:] = torch.randn(12, 1) * torch.randn(1, 6)
        elif kind == "constant":
            model[0].weight[:6], model[0].bias[:6] = 0, torch.arange(-3.0, 3.0)
        elif kind == "duplicated":
            model[0].weight[6:], model[0].bias[6:] = model[0].weight[:6], model[0].bias[:6]
        elif kind == "scales apart":
            scale = torch.logspace(-6, 6, 12)
            model[0].weight.mul_(scale[:, None])
            model[0].bias.mul_(scale)
            model[2].weight.div_(scale)
    result = prune_images(model, [data])
    assert_sensible(result, model, data)
    if kind == "duplicated":
        assert len({node % 6 for node in result.plan.kept["0"]}) == len(result.plan.kept["0"])
    if kind == "constant":
        assert not set(result.plan.kept["0"]) & {0, 1, 2, 3, 4, 5} or len(result.plan.kept["0"]) > 6


def test_layers_of_one_node_go_through():
    model = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    data = torch.randn(50, 4)
    assert_sensible(prune_images(model, [data], mipp.Budget(nodes=3)), model, data)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_through(dtype):
    model = image_network().to(dtype)
    data = [x.to(dtype) for x in image_batches()]
    result = prune_images(model, data)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert_sensible(result, model, data[0])
    expected = prune_images(image_network())
    assert sum(map(len, result.plan.kept.values())) == sum(map(len, expected.plan.kept.values()))


def test_train_mode_and_dropout_stay():
    model = image_network().train()
    statistics = copy.deepcopy(model[1].state_dict())
    result = prune_images(model)
    assert result.model.training
    assert result.model[3].p == 0.3
    assert all(torch.equal(t, model[1].state_dict()[n]) for n, t in statistics.items())
    assert prune_images(image_network().eval()).plan == result.plan


def test_a_frozen_model_stays_frozen():
    result = prune_images(image_network().requires_grad_(requires_grad=False))
    assert not any(p.requires_grad for p in result.model.parameters())


def test_a_dict_goes_in_and_a_dict_comes_out():
    def forward(m, *, pixels, mask=None):
        hidden = m.a(pixels).relu()
        return {"logits": m.b(hidden.mean((2, 3))), "mask": mask}

    model = Net(forward, a=nn.Conv2d(3, 8, 3), b=nn.Linear(8, 2))
    result = prune_images(model, [{"pixels": x, "mask": None} for x in image_batches()])
    assert result.model(pixels=image_batches()[0])["logits"].shape == (16, 2)
    assert result.plan.widths == {"a": 4}


def test_the_library_logs_its_phases_and_prints_nothing(caplog, capfd):
    with caplog.at_level(logging.INFO, "mipp"):
        prune_images()
    phases = [record.message.split(":")[0] for record in caplog.records]
    assert phases == ["read", "graph", "report", "selection", "compensation", "report"]
    assert capfd.readouterr() == ("", "")


def test_the_report_says_how_it_was_called():
    call = prune_images(exclude=["0"], seed=3, memory_limit="1GB", compensate=False).report.call
    assert call.endswith(", exclude=['0'], compensate=False, seed=3, memory_limit='1GB')")
    assert prune_images(exclude=[]).report.call.endswith("trials=0))")


def test_one_sample_is_too_few_for_a_test():
    chain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    method = mipp.methods.MIPP(confidence=0.95)
    assert "1 samples are too few" in refusal(model=chain, data=[torch.randn(1, 8)], budget=None, method=method)


def test_pruning_under_autocast_is_done_in_full_precision():
    options = {"recover": mipp.Distillation(seconds=math.inf, epochs=3)}
    usual = prune_images(**options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prune_images(**options)
    assert found.plan.kept == usual.plan.kept
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), usual.model.parameters(), strict=True))
