"""Weights that read what they have written, as those of recurrent layers do.

What such a weight reads in the cut network follows from the weight itself: as cut, values stray further at every step,
and a fit to them is one to states that the fitted network is never in. So it is fitted first to what the dense network
reads, step by step (teacher forcing), then to what the network reads that came out of that. Of the weights as cut and
after each fit, those with the least error stay, where the network runs by itself.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mipp.graph.layers import as_layer, channel_dim
from mipp.graph.nodes import Site
from mipp.graph.program import Op, Program, execute
from mipp.statistics.paths import Path
from mipp.statistics.unfolding import align


def written_by(program: Program, ops: Collection[int]) -> frozenset[int]:
    """The values that the results of some ops enter."""
    found: set[int] = set()
    for op in program.ops:
        if op.index in ops or not found.isdisjoint(op.inputs):
            found.update(op.outputs)
    return frozenset(found)


def reads_itself(program: Program, uses: Sequence[Op]) -> bool:
    """True if a weight reads, at one of its uses, what it wrote at another; a convolution in groups is not asked."""
    if len(uses) < 2 or any(op.arguments.get("groups", 1) > 1 for op in uses):
        return False
    written = written_by(program, {op.index for op in uses})
    return any(as_layer(op.name, op.arguments)["input"].index in written for op in uses)


def taught(
    site: Site, op: Op, path: Path, values: tuple[Tensor, Tensor], keep: NDArray[np.bool_]
) -> tuple[Tensor, Tensor]:
    """The input of a cut layer as the dense network has it, and what the layer makes of it.

    Args:
        site: The layer.
        op: Its op in the path.
        path: The path of the cut network.
        values: What the layer reads in the dense and in the cut network.
        keep: Which nodes stay.
    """
    there, here = values
    x = align(there, here, {**site.rows_to_keep(keep), here.ndim + channel_dim(op): site.inputs_to_keep(keep)})
    env = {as_layer(op.name, op.arguments)["input"].index: x}
    execute(path.program, env, path.bound, (op.index, op.index + 1), op.outputs)
    return x, env[op.outputs[0]]
