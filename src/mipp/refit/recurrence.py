"""Weights that read what they have written, as those of recurrent layers do.

What such a weight reads in the cut network follows from the weight itself: as cut, values stray further at every step,
and a fit to them is one to states that the fitted network is never in. So it is fitted first to what the dense network
reads, step by step (teacher forcing), then to what the network reads that came out of that. Of the weights as cut and
after each fit, those with the least error stay, where the network runs by itself.
"""

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mipp.data.calibration import Batch
from mipp.errors import UnsupportedModelError
from mipp.graph.downstream import Downstream
from mipp.graph.layers import as_layer, channel_dim, input_of
from mipp.graph.nodes import Site
from mipp.graph.program import Op, Program, StrayedError, Value
from mipp.refit.work import Run
from mipp.runtime.tensor_store import Stored, TensorStore
from mipp.statistics.unfolding import align

_JUDGES = 32  # samples


class Recorded:
    """The dense values that the fits of one weight read, computed once for all of them.

    Args:
        run: Hands the values of every batch to a function.
        store: Where they are kept.
        left_out: Why batches are left out, by index.
        take: What is kept of the values of a batch.
    """

    def __init__(
        self,
        run: Run,
        store: TensorStore,
        left_out: MutableMapping[int, UnsupportedModelError],
        take: Callable[[int, dict[int, Tensor]], dict[int, Tensor]] = lambda _, values: values,
    ) -> None:
        self._shelf, self._left_out, self._take = store.shelf(), left_out, take
        self._found: dict[int, tuple[list[int], Stored]] = {}
        run(self._put)

    def _put(self, index: int, values: dict[int, Tensor]) -> None:
        taken = self._take(index, values)
        self._found[index] = list(taken), self._shelf.put(list(taken.values()))

    def first(self, batches: Sequence[Batch]) -> set[int]:
        """The first batches, a quarter of all samples and 32 at least: enough to tell better weights from worse."""
        own = [index for index in self._found if index not in self._left_out]
        sums = list(accumulate((batches[index].samples for index in own), initial=0))
        return {index for index, before in zip(own, sums, strict=False) if before < max(sums[-1] / 4, _JUDGES)}

    def play(self, visit: Callable[[int, dict[int, Tensor]], None], among: Collection[int] | None = None) -> None:
        """Hands the values of every batch, or of some, to `visit`. One that strays is left out."""
        for index, (names, stored) in self._found.items():
            if index not in self._left_out and (among is None or index in among):
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


def writers(program: Program, uses: Sequence[Op]) -> set[int]:
    """The ops whose results follow from a weight: its uses, and what runs ahead of them with it."""
    weights = {as_layer(op.name, op.arguments)["weight"].index for op in uses}
    ahead = {op.index for op in program.ops if op.runs_ahead and not weights.isdisjoint(op.inputs)}
    return {op.index for op in uses} | ahead


def reads_itself(program: Program, uses: Sequence[Op]) -> bool:
    """True if a weight reads, at one of its uses, what it wrote before; a convolution in groups is not asked."""
    own = writers(program, uses)
    if len(own) < 2 or any(op.arguments.get("groups", 1) > 1 for op in uses):
        return False
    written = written_by(program, own)
    return any(input_of(op) in written for op in uses)


def cut_short(
    dense: Mapping[int, Tensor],
    uses: Sequence[tuple[Site, Op, Downstream]],
    values: Sequence[Value],
    keep: NDArray[np.bool_],
) -> dict[int, Tensor]:
    """The part of the dense values around a layer that the cut network has.

    Args:
        dense: What the layer reads, writes and joins at all uses, by index.
        uses: Its uses, each with its op and what follows.
        values: Those of the cut network's program.
        keep: Which nodes stay.
    """
    kept = dict(dense)
    for site, op, behind in uses:
        read, rows = input_of(op), site.rows_to_keep(keep)
        for value in (read, op.outputs[0], *([behind.other] if behind.other >= 0 else [])):
            stay, shape = (site.inputs_to_keep if value == read else site.outputs_to_keep)(keep), values[value].shape
            kept[value] = align(kept[value], shape, {**rows, len(shape) + channel_dim(op): stay})
    return kept
