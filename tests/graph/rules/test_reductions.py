"""Ops over an axis that can be cut run over the positions that are kept."""

import pytest
import torch
from cases import Net
from torch import nn

import mipp

OVER = {
    "mean": lambda x: x.mean(-1, keepdim=True) * x,
    "softmax": lambda x: x.softmax(-1),
    "norm": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True),
}


@pytest.mark.parametrize("name", OVER)
def test_the_masked_model_leaves_removed_positions_out(name):
    torch.manual_seed(0)
    model = Net(lambda m, x: m.last(OVER[name](m.first(x))), first=nn.Linear(4, 6), last=nn.Linear(6, 2)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    plan = mipp.prune(model, [x], mipp.Budget(nodes=3), mipp.methods.Random(), compensate=False, progress=False).plan
    assert torch.allclose(mipp.apply(plan, model)(x), mipp.mask(plan, model)(x), rtol=1e-12)


def test_the_place_of_the_largest_is_a_position_on_the_axis_which_stays():
    layers = {"first": nn.Linear(4, 6), "last": nn.Linear(6, 2)}
    model = Net(lambda m, x: m.first(x).argmax(-1) + m.last(m.first(x))[:, 0], **layers)
    assert "first" in {f.name for f in mipp.inspect(model, torch.randn(3, 4)).frozen}
