"""Rows of one layer: what it makes of them in the cut network, and what its outputs lack of the dense ones."""

from collections.abc import Sequence
from functools import reduce
from operator import add

from torch import Tensor

from mipp.graph.downstream import Downstream
from mipp.graph.layers import channel_dim
from mipp.graph.nodes import PruningGraph, Site
from mipp.graph.program import Op, Program
from mipp.graph.row_norms import row_norm_behind
from mipp.statistics.products import times_transposed
from mipp.statistics.sampling import rows_of_sample
from mipp.statistics.unfolding import kernel_positions

_SCARCE = 4


def make_outputs(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The outputs of rows, shape [rows, groups x outputs].

    Args:
        inputs: Shape [groups, rows, inputs].
        weight: Shape [groups, outputs, inputs].
        bias: Shape [groups x outputs].
    """
    made = times_transposed(inputs, weight.to(inputs.dtype)).transpose(0, 1).flatten(1)
    return made if bias is None else made.add_(bias.to(made))


def in_rows(weight: Tensor, groups: int) -> Tensor:
    """A weight [groups x outputs, inputs, ...] as [groups, outputs, inputs x kernel], in the order of `patches_of`."""
    flat = weight.flatten(2).mT.flatten(1) if kernel_positions(weight) > 1 else weight.flatten(1)
    by_group: Tensor = flat.unflatten(0, (groups, -1))
    return by_group


def errors_behind(sides: Sequence[tuple[Tensor, Tensor]], after: Downstream, factor: Tensor) -> Tensor:
    """The error of the output, with that of the stream it joins times a factor; [rows, outputs].

    Args:
        sides: The output in the dense and in the pruned model, and the stream if there is one.
        after: What follows the output.
        factor: See there.
    """
    missing, *joined = (there - here for there, here in sides)
    for error in joined:
        missing += error if after.norm < 0 else error * factor.to(missing.dtype)
    return missing


def errors_before(sides: Sequence[tuple[Tensor, Tensor]], scale: Tensor) -> Tensor:
    """The error of what a ReLU reads: of the output times the scale of a norm, and of the stream; [rows, outputs].

    Args:
        sides: See `errors_behind`.
        scale: Shape [outputs] or [].
    """
    (there, here), *joined = sides
    error = (there - here) * scale.to(there)
    for other, beside in joined:
        error += other - beside
    return error


def row_weights(program: Program, op: Op, after: Downstream, sides: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The weight of the error in each row where what the layer leads to is normalised row by row, else None."""
    norm = row_norm_behind(program, op, after) if after.norm < 0 else None
    if norm is None or channel_dim(op) not in (-1, len(program.values[op.outputs[0]].shape) - 1):
        return None
    return norm.weigh(reduce(add, (there for there, _ in sides)))


def is_scarce(site: Site, weight: Tensor, graph: PruningGraph, samples: int) -> bool:
    """True if a convolution has few rows for each of its inputs."""
    weight = site.swap_axes(weight)
    return weight.ndim > 2 and samples * rows_of_sample(site, graph) < _SCARCE * weight[0].numel()
