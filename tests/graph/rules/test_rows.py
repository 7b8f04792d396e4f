"""Heads beside some that are read by number: those stay, and the others go whole."""

import torch
from cases import Net
from torch import nn

import mipp

WIDTH = 4


def forward(m, x):
    """Three heads of queries, then one of keys and one of values, all from one layer."""
    heads = m.packed(x).unflatten(-1, (-1, WIDTH))
    queries, keys, values = heads[..., :-2, :], heads[..., -2, :], heads[..., -1, :]
    weights = torch.einsum("bthd,bsd->bhts", queries, keys).softmax(-1)
    return m.out(torch.einsum("bhts,bsd->bthd", weights, values).flatten(-2))


def test_whole_heads_of_queries_are_nodes_and_those_read_by_number_stay():
    torch.manual_seed(0)
    model = Net(forward, packed=nn.Linear(6, 5 * WIDTH), out=nn.Linear(3 * WIDTH, 2)).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    (group,) = mipp.inspect(model, x).groups.values()
    assert group.size == 3
    (part,) = [s for s in group.slices if s.tensor == "packed.weight" and not s.reads]
    assert part.positions.tolist() == torch.arange(3 * WIDTH).reshape(3, WIDTH).tolist()
    plan = mipp.PruningPlan.of(mipp.inspect(model, x).graph, model, {group.name: (0, 2)})
    assert torch.allclose(mipp.apply(plan, model)(x), mipp.mask(plan, model)(x), rtol=1e-12)
