"""The steps of a recurrence in the dense and in the cut model, batch by batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from mipp.graph.layers import channel_dim, input_of
from mipp.graph.program import Op
from mipp.refit.folds import folds_of
from mipp.runtime.tensor_store import Stored, TensorStore

if TYPE_CHECKING:
    from mipp.refit.targets import Uses
    from mipp.statistics.paths import Path
    from mipp.statistics.replay import Stream

HELD_OUT = 8
"""One in so many samples is held out."""


@dataclass(frozen=True)
class Steps:
    """The places of a recurrence on the path of a batch.

    Attributes:
        states: What it reads that it wrote itself.
        dim: The dimension of these that holds the channels, from the end.
        uses: For every weight the ops that it is used by.
    """

    states: Sequence[int]
    dim: int
    uses: Sequence[Sequence[Op]]

    def wanted(self) -> list[int]:
        """The states, and what the uses read."""
        ops = [op for own in self.uses for op in own]
        return [*self.states, *map(input_of, ops)]


class Unrolled:
    """The steps of all batches, with the dense states.

    Args:
        cut: The cut model, which stands in front of all uses.
        uses: By batch, those of the weight of the states, and of others that are fitted with it.
        first_samples: Number of the first sample of each batch.
        store: Keeps states.

    Attributes:
        steps: By batch.
        bytes_of_gradients: What the way back through the largest batch takes, about.
    """

    def __init__(
        self,
        cut: "Stream",
        uses: "Callable[[int], Sequence[Uses]]",
        first_samples: Sequence[int],
        store: TensorStore,
    ) -> None:
        self._cut, self._uses = cut, uses
        self._first_samples, self.store, self._shelf = first_samples, store, store.shelf()
        self.steps: dict[int, Steps] = {}
        self._dense: dict[int, Stored] = {}
        self.bytes_of_gradients = 0

    def put(self, index: int, values: dict[int, Tensor]) -> None:
        """Takes the dense values of a batch, as far as the cut model has them."""
        uses = self._uses(index)
        ops = [[op for _, op, _ in own.sites] for own in uses]
        steps = Steps([i for i in map(input_of, ops[0]) if i in uses[0].written], channel_dim(ops[0][0]), ops)
        self.steps[index] = steps
        self._dense[index] = self._shelf.put([values[state] for state in steps.states])
        self._note_bytes(self._cut.path(index), steps)

    def run(self, index: int, wanted: Sequence[int]) -> dict[int, Tensor]:
        """Computes values of a batch in the cut model.

        Raises:
            StrayedError: It takes another path by now.
        """

        def wish(path: "Path") -> tuple[Sequence[int], int]:
            return wanted, max((path.program.values[value].producer for value in wanted), default=-1) + 1

        return self._cut.values(index, wish)

    def wanted(self, index: int) -> list[Tensor]:
        """The dense states of a batch, as far as the cut model has them."""
        return self._dense[index].load()

    def is_held(self, index: int, rows: int) -> Tensor:
        """True for the rows of a state (all but its channels) that are of samples held out."""
        samples, first = self._cut.batches[index].samples, self._first_samples[index]
        return folds_of(rows, samples, first, HELD_OUT) == HELD_OUT - 1

    def release(self) -> None:
        """Says that the states are no longer needed."""
        for stored in self._dense.values():
            stored.release()

    def _note_bytes(self, path: "Path", steps: Steps) -> None:
        program, uses = path.program, [op.index for own in steps.uses for op in own]
        made = [program.values[i] for op in program.ops[min(uses) : max(uses) + 1] for i in op.outputs]
        size = sum(prod(value.shape) * value.dtype.itemsize for value in made)
        self.bytes_of_gradients = max(self.bytes_of_gradients, size)
