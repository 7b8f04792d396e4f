"""Norms of the weights, per layer and over the network."""

import numpy as np
import pytest
import torch
from tasks import kept_by, relu_chain
from torch import nn

from mipp.methods import (
    L1,
    L2,
)


@pytest.mark.parametrize(("method", "order"), [(L1(), 1), (L2(), 2)])
def test_magnitude_keeps_the_largest_norms(method, order):
    model = relu_chain()
    norms = np.linalg.norm(model[0].weight.detach().numpy(), ord=order, axis=1)
    assert kept_by(model, method, widths={"0": 2, "2": 4})["0"] == tuple(sorted(np.argsort(norms)[-2:].tolist()))


def test_global_magnitude_compares_scores_relative_to_their_layer():
    model = relu_chain()
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    assert kept_by(model, L1(scope="global"), nodes=0.5) == kept_by(
        chain_like(model, 1e3), L1(scope="global"), nodes=0.5
    )


def chain_like(model: nn.Sequential, factor: float) -> nn.Sequential:
    other = relu_chain()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[2].weight.mul_(factor)
    return other
