"""Wanda and FLAP against NumPy."""

import numpy as np
import torch
from tasks import chain, task
from torch import nn

import mipp
from mipp.methods import (
    FLAP,
    Task,
    Wanda,
)


def hidden_of(given: Task) -> np.ndarray:
    model = given.model
    return torch.cat([torch.tanh(model[0](b.call.args[0])) for b in given.batches]).detach().numpy()


def test_wanda_and_flap_against_numpy():
    given = task(chain())
    hidden, weight = hidden_of(given), given.model[2].weight.detach().numpy()
    wanda = np.abs(weight).sum(0) * np.sqrt((hidden**2).mean(0))
    np.testing.assert_allclose(Wanda().rank(given)["0"].numpy(), wanda, rtol=1e-10)
    flap = hidden.var(0) * (weight**2).sum(0)
    np.testing.assert_allclose(FLAP().rank(given)["0"].numpy(), (flap - flap.mean()) / flap.std(), rtol=1e-8)


def test_flap_sees_no_difference_between_copies():
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = model[0].weight[:1].clone(), 0.1
        model[2].weight[:] = model[2].weight[:, :1].clone()
    assert FLAP().rank(task(model))["0"].tolist() == [0.0] * 9


def test_flap_is_the_diagonal_special_case():
    """Nodes taken one by one, one noise for all targets and much of it: information is FLAP's score, up to a factor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 5)).double()
    x = torch.randn(200, 6, dtype=torch.float64)
    hidden, weight = model[:2](x), model[2].weight.detach()
    variances = hidden.var(0, correction=0).detach()
    floor = torch.full((5,), 1e5, dtype=torch.float64)
    found = mipp.estimators.by_node(weight, torch.arange(12)[:, None], variances.reshape(12, 1, 1), floor, len(x))
    flap = variances * weight.square().sum(0)
    torch.testing.assert_close(found.losses() * 2e5, flap, rtol=1e-4, atol=0)
    method = mipp.methods.all()["flap"]()
    kept = mipp.prune(model, [x], mipp.Budget(widths={"0": 5}), method, progress=False).plan.kept
    assert set(kept["0"]) == set(torch.argsort(found.losses())[-5:].tolist())
