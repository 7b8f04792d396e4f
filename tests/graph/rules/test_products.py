"""Products: what is summed and can be cut is cut in every factor, and costs its lengths."""

import pytest
import torch
from benchmarks.zoo.checks import cut_equals_masked, random_plan
from cases import Net
from torch import nn

import mipp
from mipp.data.calibration import as_call

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


@pytest.mark.parametrize("width", [5, 8])
def test_the_inner_product_with_a_weight_contracts_the_last_axes(width):
    """A square weight would hide which of its axes reads."""
    model = Net(
        lambda m, x: m.last(torch.relu(torch.inner(torch.relu(m.first(x)), m.middle.weight))),
        first=nn.Linear(4, 8), middle=nn.Linear(8, width, bias=False), last=nn.Linear(width, 2),
    ).double()  # fmt: skip
    x = torch.randn(3, 4).double()
    found = mipp.inspect(model, x)
    assert {name: g.consumers for name, g in found.groups.items()} == {"first": ("middle",), "middle": ("last",)}
    for seed in range(3):
        cut_equals_masked(random_plan(found.graph, model, seed), model, as_call(x))


def test_the_inner_product_of_two_activations_pairs_all_their_rows():
    model = Net(lambda m, x: m.last(torch.inner(x, m.first(x))), first=nn.Linear(4, 4), last=nn.Linear(3, 2))
    found = mipp.inspect(model, torch.randn(3, 4))
    assert not found.groups
    assert found.macs == 4 * 4 + 3 * 4 + 3 * 2
