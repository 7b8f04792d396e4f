"""Adapters tell the sizes of layers; a subclass has that of the nearest class above it."""

import pytest
import torch
from torch import nn

from mipp.modules.adapters import ADAPTERS, adapter_of, layer_sizes


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 3), Own(4, 3), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.BatchNorm1d(5), nn.LayerNorm((2, 3)), nn.GroupNorm(2, 6), nn.Embedding(7, 4), nn.LSTM(3, 5, proj_size=2),
        nn.GRUCell(3, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_sizes_read_off_the_tensors_are_those_of_the_layer(layer):
    sizes = layer_sizes(layer)
    assert sizes
    assert {name: getattr(layer, name) for name in sizes} == sizes


def test_what_has_nothing_to_tell_has_an_adapter_that_tells_nothing():
    assert type(nn.ReLU()) not in ADAPTERS
    assert layer_sizes(nn.ReLU()) == {}
    assert adapter_of(nn.ReLU()).counting == ""


def test_a_cut_layer_has_the_sizes_of_its_weights():
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.zeros(2, 4))
    assert layer_sizes(layer) == {"out_features": 2, "in_features": 4}
