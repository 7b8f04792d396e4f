"""Products: what is summed and can be cut is cut in every factor, and costs its lengths."""

import pytest
import torch
from cases import Net
from torch import nn

import mipp

PRODUCTS = {
    "matmul": lambda a, b: a @ b.mT,
    "einsum": lambda a, b: torch.einsum("bij,bkj->bik", a, b),
    "bmm": lambda a, b: torch.bmm(a, b.transpose(1, 2)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_rows_of_a_factor_are_nodes_of_the_result_and_cost_what_they_are_long(name):
    """Tokens are mixed by what two layers make of them; the third reads it."""

    def forward(m, x):
        return m.last(PRODUCTS[name](m.first(x).mT, x.mT).mT)

    model = Net(forward, first=nn.Linear(4, 6), last=nn.Linear(6, 2))
    found = mipp.inspect(model, torch.randn(2, 3, 4))
    (group,) = found.groups.values()
    assert (group.producers, group.consumers) == (("first",), ("last",))
    assert found.macs == 3 * 4 * 6 + 6 * 3 * 4 + 4 * 6 * 2
    assert round(found.cost.per_group("macs", found.cost.sizes)[0]) == 3 * 4 + 3 * 4 + 4 * 2
