"""OSSCAR against the residual of the refitted layer."""

import itertools

import numpy as np
import pytest
import torch
from tasks import task
from torch import nn

import mipp
from mipp.methods import (
    OSSCAR,
)
from mipp.methods.reconstruction import LayerError


def test_osscar_error_is_the_residual_of_the_refitted_layer():
    """Every removal order of four nodes of two features each, beside two of others, against a fit from scratch."""
    x, weight = torch.randn(80, 10, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    blocks = torch.tensor([[9, 1], [0, 4], [6, 2], [3, 8]])
    for order in itertools.permutations(range(4), 3):
        layer = LayerError(x.mT @ x, weight, blocks, ridge=1e-12)
        total, gone = 0.0, []
        for node in order:
            total += float(layer.losses()[node])
            layer.remove(node)
            gone.append(node)
            left = sorted(set(range(10)) - set(blocks[gone].flatten().tolist()))
            residual = np.linalg.lstsq(x[:, left].numpy(), (x @ weight.mT).numpy(), rcond=None)[1].sum()
            assert total == pytest.approx(residual, rel=1e-6)


def test_osscar_drops_what_can_be_refitted_and_keeps_what_is_alone():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 2 * model[0].weight[0], 2 * model[0].bias[0]
        model[2].weight[:, :2] *= 100
    kept = OSSCAR(ridge=1e-9).plan(task(model, samples=40), mipp.Budget(widths={"0": 5})).kept["0"]
    assert len({0, 1} & set(kept)) == 1
