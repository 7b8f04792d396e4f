"""Scores agree with those of torch-pruning."""

import pytest
import torch
import torch_pruning
from benchmarks.rivals import TorchPruning
from cases import named
from torch import nn

import mipp
from mipp.data.calibration import read
from mipp.methods import (
    L1,
    LAMP,
    BatchNormScale,
    Task,
)
from mipp.plan.cost import cost_of
from mipp.zoo import DigitsCNN, load


def oracle_groups(model: nn.Module, example: torch.Tensor, module: nn.Module):
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    return graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, list(range(module.out_channels)))


@pytest.mark.parametrize("name", ["conv bn relu chain", "residual"])
def test_scores_agree_with_torch_pruning(name):
    """Magnitude, LAMP and batch-norm scale, on the layers that produce the nodes."""
    case = named(name)
    model = case.model()
    with torch.random.fork_rng():
        found = mipp.inspect(model, case.batch(2))
    given = Task(model, found.graph, cost_of(found.graph), read(mipp.Calibration(case.batches()), None))
    for group in given.graph.groups.values():
        module = model.get_submodule(group.producers[0])
        items = list(oracle_groups(model, case.batch(2), module))
        makes = [i for i in items if i.dep.handler == torch_pruning.prune_conv_out_channels]
        for method, oracle in (
            (L1(), torch_pruning.importance.MagnitudeImportance(p=1, group_reduction="sum", normalizer=None)),
            (LAMP(), torch_pruning.importance.LAMPImportance(p=2, group_reduction="sum")),
            (BatchNormScale(), torch_pruning.importance.BNScaleImportance(normalizer=None)),
        ):
            chosen = items if isinstance(method, BatchNormScale) else makes
            expected = oracle(chosen)
            if expected is not None and len(expected):
                torch.testing.assert_close(method.rank(given)[group.name], expected.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("score", ["l1", "taylor", "hessian"])
def test_what_torch_pruning_keeps_becomes_a_plan_for_the_very_same_network(score):
    torch.manual_seed(0)
    model = DigitsCNN().eval()
    for vector in (p for p in model.parameters() if p.ndim == 1):
        nn.init.uniform_(vector, 0.5, 1.5)  # as after training: by these the nodes are recognised
    data = list(load("digits", "train").batches(64, limit=64, generator=torch.Generator().manual_seed(0)))
    found = mipp.inspect(model, data[0][0])
    given = Task(model, found.graph, cost_of(found.graph), read(mipp.Calibration(data), None))
    method, budget = TorchPruning(score), mipp.Budget(macs=0.5)
    cut = mipp.apply(method.plan(given, budget), model)
    torch.testing.assert_close(cut(data[0][0]), method.smaller(given, budget)(data[0][0]))
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())
