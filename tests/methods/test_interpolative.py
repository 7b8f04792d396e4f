"""Interpolative decompositions against the energy that is lost."""

import pytest
import torch
from tasks import task
from torch import nn

import mipp
from mipp.methods import (
    Interpolative,
)
from mipp.methods.interpolative import pivots


def test_pivots_lose_the_residual_that_the_kept_nodes_leave():
    x = torch.randn(30, 5, dtype=torch.float64) * torch.tensor([3.0, 1.0, 2.0, 0.5, 1.0]).double()
    x[:, 4] = x[:, 0] + 2 * x[:, 2]
    elimination = pivots(x.mT @ x)
    assert elimination.loss[1] == pytest.approx(0, abs=1e-10)  # one of 0, 2 and 4 is a combination of the others
    kept = list(elimination.kept(1))
    assert kept == [int(x.square().sum(0).argmax())]
    second = list(elimination.kept(2))
    rest = x - x[:, kept] @ torch.linalg.lstsq(x[:, kept], x).solution
    assert set(second) - set(kept) == {int(rest.square().sum(0).argmax())}


def test_the_loss_of_an_interpolation_is_the_energy_that_the_pivots_lack():
    base = torch.randn(200, 3, dtype=torch.float64)
    x = torch.cat([base, base[:, :1] + 0.3 * torch.randn(200, 4).double()], 1)  # four are nearly copies of the first
    elimination = pivots(x.mT @ x)
    for removed in range(8):
        kept = x[:, list(elimination.kept(7 - removed))]
        lacking = x - kept @ torch.linalg.lstsq(kept, x).solution if removed < 7 else x
        assert elimination.loss[removed] == pytest.approx(float(lacking.square().sum() / x.square().sum()), abs=1e-12)


def test_interpolative_drops_copies():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = model[0].weight[0], model[0].bias[0]
    kept = Interpolative().plan(task(model, samples=40), mipp.Budget(widths={"0": 5})).kept["0"]
    assert len({0, 3} & set(kept)) == 1
