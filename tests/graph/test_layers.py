"""One view of layers that hold their weights in different ways."""

import pytest
import torch
from torch import nn

from mipp.graph.call import Call
from mipp.graph.layers import as_layer, bias_of, channel_dim, is_layer, swap_axes
from mipp.graph.trace import trace


@pytest.mark.parametrize("groups", [1, 3])
def test_swapping_axes_twice_changes_nothing(groups):
    weight = torch.randn(6, 4, 2)
    swapped = swap_axes(weight, groups)
    assert swapped.shape == (4 * groups, 6 // groups, 2)
    assert torch.equal(swap_axes(swapped, groups), weight)


@pytest.mark.parametrize(
    ("layer", "shape", "channel"),
    [(nn.Linear(4, 3), (2, 4), -1), (nn.Conv2d(4, 3, 1), (2, 4, 5, 5), -3), (nn.Conv1d(4, 3, 1), (2, 4, 5), -2)],
)
def test_the_weight_is_outputs_by_inputs_and_channels_are_found(layer, shape, channel):
    program = trace(layer.eval(), Call((torch.randn(shape),)))
    (op,) = [op for op in program.ops if is_layer(op.name)]
    weight = program.values[as_layer(op.name, op.arguments)["weight"].index]
    assert weight.shape[:2] == (3, 4)
    assert program.values[bias_of(op).index].name == "bias"
    assert channel_dim(op) == channel
