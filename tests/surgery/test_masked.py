"""A masked model computes at full size what the cut one computes, and is not the model itself."""

import torch
from torch import nn

import mipp


def test_masking_leaves_the_model_and_its_sizes_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)).double()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    x = torch.randn(4, 3, dtype=torch.float64)
    plan = mipp.PruningPlan.of(mipp.inspect(model, x).graph, model, {"0": (1, 4, 5)})
    masked = mipp.mask(plan, model)
    assert {n: t.shape for n, t in masked.state_dict().items()} == {n: t.shape for n, t in before.items()}
    assert torch.allclose(masked(x), mipp.apply(plan, model)(x), rtol=1e-12)
    assert not torch.allclose(masked(x), model(x))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
