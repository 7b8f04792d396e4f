"""Losses of outputs and features, which distillation lowers."""

import pytest
import torch
from networks import Residual
from torch import Tensor, nn

import mipp
from mipp.data.calibration import Calibration, read
from mipp.graph.nodes import PruningGraph
from mipp.plan.cost import cost_of
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.distillation import Distillation, distill
from mipp.refit.losses import Runner, feature_loss, features, output_loss


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


def test_outputs_that_are_not_logits_are_matched_by_squared_error():
    dense = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3))
    data = [torch.randn(8, 2, 6, 6) for _ in range(9)]
    _, before, after = distilled(dense, data, epochs=5, learning_rate=1e-2)
    assert after < before


def test_features_are_the_streams_behind_refitted_layers():
    """Those of a forward pass by hand."""
    dense, x = Residual().eval(), torch.randn(2, 3, 8, 8)
    small, plan, graph = cut(dense, x, 3, whole=("stem",))
    found = features(graph, plan)
    runner, call = Runner(small, found, graph), mipp.data.calibration.as_call(x)
    outputs, values = runner(call, runner.find(call))
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
    call = mipp.data.calibration.as_call(x)
    with torch.no_grad():
        runners = Runner(dense, found, graph), Runner(small, found, graph)
        (_, own), (_, values) = (runner(call, runner.find(call)) for runner in runners)
    assert any(there.shape != here.shape for there, here in zip(own, values, strict=True))
    rows = [t if t.shape == v.shape else t[:, :3] for t, v in zip(own, values, strict=True)]
    assert float(feature_loss(rows, own, found)) == 0
    assert float(feature_loss(values, own, found)) > 0
