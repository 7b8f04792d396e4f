"""Regions follow each other, hand one value on, and hold a non-linearity; each weight learns in one of them."""

import pytest
import torch
from region_networks import network
from torch import nn

import mipp
from mipp.plan.plan import PruningPlan
from mipp.refit.regions import Region, find_regions


def halves(model: nn.Module, example: torch.Tensor, whole: str = "-") -> tuple[mipp.report.Inspection, PruningPlan]:
    """A plan that keeps the first half of each group, except of one."""
    found = mipp.inspect(model, example)
    kept = {n: range(g.size if n.startswith(whole) else (g.size + 1) // 2) for n, g in found.groups.items()}
    return found, PruningPlan.of(found.graph, model, kept)


def regions_of(kind: str, whole: str = "-") -> tuple[nn.Module, mipp.report.Inspection, list[Region]]:
    model, data = network(kind)
    found, plan = halves(model, data[0], whole)
    return model, found, find_regions(found.graph, plan)


@pytest.mark.parametrize(("kind", "number"), [("residual", 3), ("transformer", 4), ("recurrent", 1)])
def test_regions_follow_each_other_and_each_weight_is_in_one_at_most(kind, number):
    model, found, regions = regions_of(kind)
    assert len(regions) == number
    assert [r.start for r in regions] == [0, *(r.stop for r in regions[:-1])]
    names = [name for region in regions for name in region.weights]
    assert sorted(names) == sorted(dict(model.named_parameters()))
    assert [r.value < 0 for r in regions] == [False] * (number - 1) + [True]
    assert regions[-1].stop == len(found.graph.program.ops)


def test_a_region_ends_behind_a_residual_block_and_keeps_what_is_left_of_its_channels():
    model, data = network("residual")
    found, plan = halves(model, data[0])
    small = mipp.apply(plan, model)
    for region, layer in zip(find_regions(found.graph, plan)[:-1], (small.layer1, small.layer2), strict=True):
        assert found.graph.program.ops[region.stop - 1].name == "relu"
        assert {dim: int(stay.sum()) for dim, stay in region.kept.items()} == {-3: layer[0].conv2.out_channels}


def test_layers_behind_the_last_region_that_read_no_removed_nodes_are_in_none():
    _, found, regions = regions_of("transformer", whole="embed")
    assert regions[-1].value >= 0
    assert not any(name.startswith("head") for region in regions for name in region.weights)
    assert regions[-1].stop < len(found.graph.program.ops)


def test_layers_without_a_non_linearity_between_them_are_one_region():
    model = nn.Sequential(
        nn.Linear(6, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    found, plan = halves(model, torch.randn(2, 6))
    weights = [region.weights for region in find_regions(found.graph, plan)]
    assert [len(names) for names in weights] == [6, 4]


def test_a_weight_that_two_regions_share_is_in_neither():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(6)))
    model[5][0].weight = model[0][0].weight
    found = mipp.inspect(model, torch.randn(2, 6))
    plan = PruningPlan.of(found.graph, model, {name: range(group.size) for name, group in found.groups.items()})
    assert all("0.0.weight" not in region.weights for region in find_regions(found.graph, plan))
