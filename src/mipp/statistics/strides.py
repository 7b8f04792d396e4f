"""Images with their channels last in memory: convolutions on a CPU, and rows of features, are made faster from them."""

import torch
from torch import Tensor

from mipp.graph.program import Program

_BOUND_TO_STRIDES = ("as_strided", "as_strided_scatter", "set_")


def may_turn(program: Program) -> bool:
    """True if a program convolves images on a CPU, and computes the same whatever the strides of its inputs.

    That is not known of other paths than the program's, of ops that read memory as it lies, and where memory is changed
    through one tensor and read through another: a view of turned images may be a copy. Ops over volumes, which take
    images for one volume, refuse turned ones.
    """
    bound = any(op.name in _BOUND_TO_STRIDES or op.name.endswith("3d") for op in program.ops)
    if program.not_replayable or program.guards or bound:
        return False
    return any(op.name == "conv2d" for op in program.ops)


def turn(images: Tensor) -> Tensor:
    """The same numbers with channels last in memory, if they are images on a CPU."""
    if images.ndim != 4 or images.device.type != "cpu" or not images.is_floating_point():
        return images
    return images.contiguous(memory_format=torch.channels_last)
