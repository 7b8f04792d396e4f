"""recover="distill": label-free, held-out batches decide, never worse than before."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from cases import Net
from networks import (
    Branch,
    Residual,
    halve,
    linear_layers,
    normal,
    refusal,
    squared_error,
)
from torch import Tensor, nn

import mipp
from mipp.data.calibration import Calibration, read
from mipp.graph.nodes import PruningGraph
from mipp.plan.cost import cost_of
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.descent import Descent
from mipp.refit.distillation import Distillation, distill


def network(hidden: int = 12) -> nn.Module:
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 5))


def batches(count: int = 9) -> list[torch.Tensor]:
    return [torch.randn(32, 6) for _ in range(count)]


def cut(
    dense: nn.Module, example: Tensor, width: int = 4, whole: tuple[str, ...] = ()
) -> tuple[nn.Module, PruningPlan, PruningGraph]:
    """A model whose groups keep their first nodes, or all."""
    graph = mipp.inspect(dense, example).graph
    kept = {name: range(group.size if name in whole else width) for name, group in graph.groups.items()}
    plan = PruningPlan.of(graph, dense, kept)
    return mipp.apply(plan, dense), plan, graph


def task(dense: nn.Module, graph: PruningGraph, data: list[Tensor]) -> Task:
    return Task(dense, graph, cost_of(graph), read(Calibration(data, None), None))


def distilled(dense: nn.Module, data: list[Tensor], **options: float) -> tuple[nn.Module, float, float]:
    small, plan, graph = cut(dense, data[0])
    found = distill(small, dense, plan, task(dense, graph, data), Distillation(**options))
    return small, *found


def test_distillation_lowers_the_held_out_loss():
    _, before, after = distilled(network(), batches(), epochs=5, learning_rate=1e-2)
    assert after < before


def test_distillation_keeps_the_weights_it_began_with_where_nothing_is_better():
    dense = network()
    small, before, after = distilled(dense, batches(), epochs=2, learning_rate=1e6)
    state = cut(dense, batches(1)[0])[0].state_dict()
    assert after == before
    assert all(torch.equal(state[k], v) for k, v in small.state_dict().items())


def test_a_rate_that_is_too_large_is_lowered_until_something_is_better(monkeypatch):
    rates = []
    learn_at = Descent._learn_at
    monkeypatch.setattr(Descent, "_learn_at", lambda self, rate: (rates.append(rate), learn_at(self, rate))[1])
    _, before, after = distilled(network(), batches(), epochs=40, learning_rate=3.0)
    assert after < before
    assert len(rates) > 1
    assert rates == sorted(rates, reverse=True)


def test_distillation_leaves_frozen_parameters_modes_and_gradients():
    dense, data = network(), batches()
    small, plan, graph = cut(dense, data[0])
    small[0].requires_grad_(False)
    small.train()
    fixed = small[0].weight.clone()
    options = Distillation(epochs=2, learning_rate=1e-2)
    distill(small, dense, plan, task(dense, graph, data), options)
    assert torch.equal(small[0].weight, fixed)
    assert all(m.training for m in small.modules())
    assert all(p.grad is None for p in small.parameters())


@pytest.mark.parametrize("learns", ["head", "nothing behind the input"])
def test_where_features_cannot_learn_the_outputs_are_matched_or_nothing_changes(learns):
    """With all layers before the head frozen it still learns; a parameter that no output needs stops nothing."""
    dense, data = Residual().eval().requires_grad_(False), [torch.randn(8, 3, 8, 8) for _ in range(9)]
    if learns == "head":
        dense.head.requires_grad_(True)
    else:
        dense.spare = nn.Parameter(torch.zeros(2))
    small, plan, graph = cut(dense, data[0], 3)
    before, after = distill(small, dense, plan, task(dense, graph, data), Distillation(epochs=3, learning_rate=1e-2))
    assert after < before if learns == "head" else after == before


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_distillation_refuses_what_cannot_be(wrong):
    with pytest.raises(mipp.MippError, match=rf"Distillation\({next(iter(wrong))}="):
        Distillation(**wrong)


def test_prune_with_recover_reports_what_it_did_and_leaves_the_model():
    dense = network()
    state = {k: v.clone() for k, v in dense.state_dict().items()}
    recover = mipp.Distillation(epochs=3)
    result = mipp.prune(dense, batches(), mipp.Budget(nodes=0.3), recover=recover, progress=False)
    assert any("held-out loss" in note for note in result.report.notes)
    assert all(torch.equal(state[k], v) for k, v in dense.state_dict().items())


@pytest.mark.parametrize("by", ["network", "blocks"])
def test_of_a_single_batch_an_eighth_is_held_out(by):
    recover = mipp.Distillation(epochs=2, by=by, seconds=math.inf)
    dense, whole = network(), torch.cat(batches(2))
    parts = [whole[: len(whole) // 8], whole[len(whole) // 8 :]]
    one, two = (
        mipp.prune(dense, data, mipp.Budget(nodes=0.3), recover=recover, progress=False) for data in ([whole], parts)
    )
    assert any("held-out loss" in note for note in one.report.notes)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_sample_cannot_be_held_out():
    with pytest.raises(mipp.CalibrationError, match="there is one of 1 samples that cannot be divided"):
        mipp.prune(network(), [batches(1)[0][:1]], mipp.Budget(nodes=0.3), recover="distill", progress=False)


def test_an_unknown_way_to_recover_is_refused():
    with pytest.raises(mipp.MippError, match="distill"):
        mipp.prune(network(), batches(), mipp.Budget(nodes=0.3), recover="magic", progress=False)


def test_distillation_leaves_emptied_groups_silent():
    """Law 7: no output depends on the input through the node that stands in for a group that has gone."""
    torch.manual_seed(0)
    dense, data = network(), batches()
    graph = mipp.inspect(dense, data[0]).graph
    plan = PruningPlan.of(graph, dense, {"0": ()})
    small = mipp.apply(plan, dense)
    distill(small, dense, plan, task(dense, graph, data), Distillation(epochs=5, learning_rate=1e-2))
    assert not torch.equal(small[2].bias, mipp.apply(plan, dense)[2].bias)
    assert float(small(data[0]).detach().std(0).max()) == 0


def test_two_empty_groups_in_a_row_leave_something_to_compare():
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)
    )
    data = batches()
    graph = mipp.inspect(dense, data[0]).graph
    plan = PruningPlan.of(graph, dense, {"0": (), "2": (), "4": range(4)})
    small = mipp.apply(plan, dense)
    before, after = distill(small, dense, plan, task(dense, graph, data), Distillation(epochs=5))
    assert after <= before < float("inf")


pytestmark = pytest.mark.usefixtures("quick")


def test_a_model_that_returns_integers_has_nothing_to_distil():
    model = Net(lambda m, x: m.b(F.relu(m.a(x))).argmax(1), a=nn.Linear(8, 16), b=nn.Linear(16, 4))
    data = [torch.randn(32, 8) for _ in range(2)]
    assert "no floating-point tensor" in refusal(model=model, data=data, recover=mipp.Distillation(epochs=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distillation_learns_in_half_precision_what_it_learns_in_full(dtype):
    found = {}
    for kind in (torch.float32, dtype):
        model = linear_layers(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))), 6, 32, 32, 3).to(kind)
        data = [normal(64, 6, seed=n).to(kind) for n in range(9)]
        how = mipp.Distillation(epochs=20)
        result = halve(model, data, method=mipp.methods.L1(), compensate=False, recover=how)
        assert result.model.a.weight.dtype == kind
        cut = mipp.apply(result.plan, model)
        found[kind] = squared_error(result.model, model, [(x,) for x in data]) / squared_error(
            cut, model, [(x,) for x in data]
        )
    assert found[torch.float32] < 0.8
    assert found[dtype] == pytest.approx(found[torch.float32], rel=0.02)


def test_distillation_of_images_that_become_volumes():
    model = Net(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x)).unsqueeze(2))).flatten(1)),
                a=nn.Conv2d(3, 8, 3), b=nn.Conv3d(8, 4, (1, 3, 3)), c=nn.Linear(64, 3))  # fmt: skip
    result = halve(model, [normal(16, 3, 8, 8, seed=n) for n in range(3)], recover=mipp.Distillation(epochs=1))
    assert result.model(normal(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_whoever_prunes_without_gradients_can_train_the_result(mode):
    with mode():
        model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))), 6, 16, 3)
        loss = nn.functional.cross_entropy
        data = [(normal(50, 6), torch.arange(50) % 3)]
        result = halve(model, data, method=mipp.methods.Taylor(), loss_fn=loss)
    result.model(normal(5, 6)).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())


def images(count: int = 4) -> list[torch.Tensor]:
    return [torch.randn(8, 3, 6, 6) for _ in range(count)]


def test_distillation_leaves_a_model_in_train_mode_as_it_was():
    model = Branch().train()
    state = copy.deepcopy(model.state_dict())
    mipp.prune(model, images(9), mipp.Budget(macs=0.5), recover="distill", progress=False)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_distillation_of_a_model_without_gradients_changes_nothing():
    model = Branch().requires_grad_(requires_grad=False)
    result = mipp.prune(model, images(9), mipp.Budget(macs=0.5), recover="distill", progress=False)
    assert not any(p.requires_grad for p in result.model.parameters())
