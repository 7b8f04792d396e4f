"""Ops that take positions by index keep the length of the axis that they index."""

import pytest
import torch
import torch.nn.functional as F
from benchmarks.zoo.checks import cut_equals_masked, random_plan
from cases import Net
from torch import nn

import mipp
from mipp.data.calibration import as_call

FUNCTIONS = {
    "index_select": lambda x: x.index_select(1, torch.tensor([0, 2])),
    "sort": lambda x: x.sort(1).values,
    "gather": lambda x: x.gather(1, torch.zeros(len(x), 2, dtype=torch.long)),
    "index": lambda x: x[:, torch.tensor([0, 2])],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_axis_that_is_indexed_stays(name):
    model = Net(lambda m, x: m.last(FUNCTIONS[name](m.first(x))), first=nn.Linear(4, 5), last=nn.LazyLinear(2))
    model(torch.randn(3, 4))
    assert "first" in {f.name for f in mipp.inspect(model, torch.randn(3, 4)).frozen}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_axis_beside_it_can_be_cut(name):
    """Tokens are taken; the features behind are nodes as before."""
    model = Net(lambda m, x: m.last(FUNCTIONS[name](m.first(x))), first=nn.Linear(4, 5), last=nn.Linear(5, 2))
    if name == "gather":
        pytest.skip("its indices have no features")
    assert list(mipp.inspect(model, torch.randn(2, 3, 4)).groups) == ["first"]


@pytest.mark.parametrize("shape", [(2, 7), (2, 7, 1)])
def test_a_number_that_is_put_where_a_mask_is_true_leaves_channels_free(shape):
    def forward(m, x):
        h, padding = m.a(x), torch.arange(14).view(shape) > 9
        h[padding if len(shape) == 2 else padding.repeat(1, 1, h.shape[2])] = 0
        return m.b(F.relu(h))

    net = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3)).double()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    graph = mipp.inspect(net, x).graph
    assert graph.groups["a"].size == 6
    cut_equals_masked(random_plan(graph, net), net, as_call(x))
