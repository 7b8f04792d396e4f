"""recover="distill": label-free, held-out batches decide, never worse than before."""

import pytest
import torch
from torch import Tensor, nn

import mipp
from mipp.data.calibration import Calibration, read
from mipp.graph.nodes import PruningGraph
from mipp.plan import PruningPlan
from mipp.plan.cost import cost_of
from mipp.plan.task import Task
from mipp.refit import distillation as recovery
from mipp.refit.distillation import Distillation, distill
from mipp.refit.losses import Runner, feature_loss, features, output_loss


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


def test_the_loss_of_outputs_sees_what_the_softmax_does_not():
    target = torch.randn(64, 3)
    assert float(output_loss([target], [target])) == pytest.approx(0, abs=1e-6)
    assert float(output_loss([target + 1], [target])) == pytest.approx(1 / float(target.var(correction=0)), rel=1e-4)
    saturated = target * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 100.0])
    assert float(output_loss([saturated + torch.tensor([5.0, 0, 0])], [saturated])) > 1e-3


def test_values_are_not_distilled_further_from_the_dense_ones():
    torch.manual_seed(0)
    dense, data = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 3)), batches()
    with torch.no_grad():
        dense[2].weight.mul_(20)
    results = [
        mipp.prune(dense, data, mipp.Budget(macs=0.3), recover=recover, progress=False).model
        for recover in (None, Distillation(seconds=1000, epochs=10))
    ]
    fresh = torch.randn(500, 6)
    with torch.no_grad():
        refitted, recovered = (float((model(fresh) - dense(fresh)).square().mean()) for model in results)
    assert recovered < refitted


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
    learn_at = recovery._Distiller._learn_at
    monkeypatch.setattr(
        recovery._Distiller, "_learn_at", lambda self, rate: (rates.append(rate), learn_at(self, rate))[1]
    )
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


def test_outputs_that_are_not_logits_are_matched_by_squared_error():
    dense = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3))
    data = [torch.randn(8, 2, 6, 6) for _ in range(9)]
    _, before, after = distilled(dense, data, epochs=5, learning_rate=1e-2)
    assert after < before


class Residual(nn.Module):
    """Two blocks on a stream, behind a convolution whose channels cannot be removed with theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        self.inner = nn.ModuleList(nn.Conv2d(6, 8, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(8, 6, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer, norm in zip(self.inner, self.outer, self.norms, strict=True):
            x = (x + norm(outer(inner(x).relu_()))).relu_()
        return self.head(x.mean((2, 3)))


def test_features_are_the_streams_behind_refitted_layers():
    """Those of a forward pass by hand."""
    dense, x = Residual().eval(), torch.randn(2, 3, 8, 8)
    small, plan, graph = cut(dense, x, 3, whole=("stem",))
    found = features(graph, plan)
    outputs, values = Runner(small, [f.value for f in found], graph.program)(mipp.data.calibration.as_call(x))
    assert torch.allclose(outputs[0], small(x), atol=1e-6)
    stream, streams = small.stem(x), []
    for inner, outer, norm in zip(small.inner, small.outer, small.norms, strict=True):
        stream = (stream + norm(outer(inner(stream).relu()))).relu()
        streams.append(stream)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(values, streams, strict=True))


def test_features_of_the_dense_model_are_compared_in_the_channels_that_are_kept():
    dense, x = Residual().eval(), torch.randn(2, 3, 8, 8)
    small, plan, graph = cut(dense, x, 3)
    found = features(graph, plan)
    call, wanted = mipp.data.calibration.as_call(x), [f.value for f in found]
    with torch.no_grad():
        (_, own), (_, values) = (Runner(model, wanted, graph.program)(call) for model in (dense, small))
    assert any(there.shape != here.shape for there, here in zip(own, values, strict=True))
    rows = [t if t.shape == v.shape else t[:, :3] for t, v in zip(own, values, strict=True)]
    assert float(feature_loss(rows, own, found)) == 0
    assert float(feature_loss(values, own, found)) > 0


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
    with pytest.raises(mipp.MippError, match="expected seconds and learning_rate to be positive"):
        Distillation(**wrong)


def test_prune_with_recover_reports_what_it_did_and_leaves_the_model():
    dense = network()
    state = {k: v.clone() for k, v in dense.state_dict().items()}
    recover = mipp.Distillation(epochs=3)
    result = mipp.prune(dense, batches(), mipp.Budget(nodes=0.3), recover=recover, progress=False)
    assert any("held-out loss" in note for note in result.report.notes)
    assert all(torch.equal(state[k], v) for k, v in dense.state_dict().items())


def test_one_batch_cannot_be_held_out():
    with pytest.raises(mipp.CalibrationError, match="two calibration batches"):
        mipp.prune(network(), batches(1), mipp.Budget(nodes=0.3), recover="distill", progress=False)


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
