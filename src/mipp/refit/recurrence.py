"""Weights that read what they have written, as those of recurrent layers do.

What such a weight reads in the cut network follows from the weight itself: as cut, values stray further at every step,
and a fit to them is one to states that the fitted network is never in. So it is fitted first to what the dense network
reads, step by step (teacher forcing), then to what the network reads that came out of that. Of the weights as cut and
after each fit, those with the least error stay, where the network runs by itself.
"""

from collections.abc import Callable, Collection, MutableMapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mipp.errors import UnsupportedModelError
from mipp.graph.layers import as_layer, channel_dim
from mipp.graph.nodes import Site
from mipp.graph.program import Op, Program, StrayedError, execute
from mipp.refit.work import Run
from mipp.runtime.tensor_store import Stored, TensorStore
from mipp.statistics.paths import Path
from mipp.statistics.unfolding import align


class Recorded:
    """The dense values that the fits of one weight read, computed once for all of them.

    Args:
        run: Hands the values of every batch to a function.
        store: Where they are kept.
        left_out: Why batches are left out, by index.
    """

    def __init__(self, run: Run, store: TensorStore, left_out: MutableMapping[int, UnsupportedModelError]) -> None:
        self._shelf, self._left_out = store.shelf(), left_out
        self._found: dict[int, tuple[list[int], Stored]] = {}
        run(self._put)

    def _put(self, index: int, values: dict[int, Tensor]) -> None:
        self._found[index] = list(values), self._shelf.put(list(values.values()))

    def play(self, visit: Callable[[int, dict[int, Tensor]], None]) -> None:
        """Hands the values of every batch to `visit`. One that strays is left out."""
        for index, (names, stored) in self._found.items():
            if index not in self._left_out:
                try:
                    visit(index, dict(zip(names, stored.load(), strict=True)))
                except StrayedError as error:
                    self._left_out[index] = error

    def release(self) -> None:
        """Says that the values are no longer needed."""
        for _, stored in self._found.values():
            stored.release()


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
