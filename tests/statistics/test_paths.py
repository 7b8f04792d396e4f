"""Batches that take other ways through the code have programs of their own, with the layers found again."""

import torch
from cases import Net
from torch import nn

import mipp
from mipp.graph.call import Call
from mipp.statistics.paths import Paths, same_path


def network() -> nn.Module:
    def forward(m, x):
        x = m.first(x).relu()
        return m.last(x * 2 if x.mean() > 100 else x)

    return Net(forward, first=nn.Linear(3, 4), last=nn.Linear(4, 2))


def test_calls_of_one_way_share_a_path_and_another_way_has_its_own():
    model, x = network(), torch.randn(2, 3)
    paths = Paths(model, mipp.inspect(model, x).graph)
    usual, again, other = (paths.find(Call((values,))) for values in (x, x + 0.1, x + 1e6 * torch.ones(2, 3).abs()))
    assert usual is again
    assert usual.is_expected
    if other is not usual:  # the sign of the weights decides whether the mean is large
        assert not same_path(usual, other)
        assert sorted(other.sites.values()) == sorted(usual.sites.values())


def test_places_of_the_graph_have_places_on_a_path():
    model, x = network(), torch.randn(2, 3)
    graph = mipp.inspect(model, x).graph
    path = Paths(model, graph).find(Call((x,)))
    assert [path.start_of(site.op) for site in graph.sites] == [site.op for site in graph.sites]
    assert [op.index for op in path.uses(graph.sites[0])] == [graph.sites[0].op]
