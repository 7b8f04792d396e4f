"""Ops that take positions by index keep the length of the axis that they index."""

import pytest
import torch
from cases import Net
from torch import nn

import mipp

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
