"""HRank and CHIP against dense linear algebra."""

import torch
from cases import named
from tasks import task
from torch import nn

from mipp.methods import (
    CHIP,
    HRank,
)
from mipp.methods.maps import independence


def test_hrank_takes_rounding_for_no_rank():
    """Maps of three by three, enlarged, have a rank of three at most, in any precision."""
    model = nn.Sequential(
        nn.Upsample(scale_factor=4, mode="bilinear"), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1), nn.Flatten()
    )
    found = [HRank().rank(task(each, shape=(2, 3, 3)))["1"] for each in (model.float(), model.double())]
    assert torch.equal(*found)
    assert float(found[0].max()) <= 4


def test_chip_computes_the_same_a_few_nodes_at_a_time(monkeypatch):
    maps = torch.randn(6, 20, dtype=torch.float64)
    whole = independence(maps)
    monkeypatch.setattr("mipp.methods.maps._ENTRIES", 80)
    torch.testing.assert_close(independence(maps), whole)


def test_hrank_counts_the_rank_of_feature_maps():
    """Filters with a kernel of one pass the input's rank on; a dead filter and a constant one have ranks 0 and 1."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1)
        model[0].bias[:] = torch.tensor([5.0, -1.0, 1.0])
    assert HRank().rank(task(model, shape=(1, 6, 6)))["0"].tolist() == [6.0, 0.0, 1.0]


def test_chip_is_the_fall_of_the_nuclear_norm():
    maps = torch.randn(4, 9, dtype=torch.float64)
    expected = []
    for i in range(4):
        without = maps.clone()
        without[i] = 0
        expected.append(torch.linalg.matrix_norm(maps, "nuc") - torch.linalg.matrix_norm(without, "nuc"))
    torch.testing.assert_close(independence(maps), torch.stack(expected))
    model = named("conv bn relu chain").model()
    given = task(model, shape=(3, 6, 6))
    seen = torch.cat([model[:3](b.call.args[0]) for b in given.batches]).detach()
    name = next(iter(given.graph.groups))
    mean = torch.stack([independence(m.flatten(1)) for m in seen]).mean(0)
    torch.testing.assert_close(CHIP().rank(given)[name], mean)
