"""Batches that take another path than the first: left out, and counted."""

from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager

from mipp.graph.program import StrayedError
from mipp.runtime.record import Notes


def tell_left_out(total: int, errors: Collection[Exception], of: str, batches: str = "calibration batches") -> str:
    """A sentence that says how many batches were left out, and why the first of them was."""
    several = "1 was" if len(errors) == 1 else f"{len(errors)} were"
    reason = str(next(iter(errors))).removesuffix(".")
    return f"Of {total} {batches} {several} left out of {of}: {reason}."


class Followed:
    """Batches that take another path than the first are left out, and counted.

    Attributes:
        forms: Forms of the calls that were followed.
    """

    def __init__(self) -> None:
        self.forms: set[Hashable] = set()
        self._number = 0
        self._left_out: list[StrayedError] = []

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """A block that observes one batch; one that strays is left out."""
        self._number += 1
        try:
            yield
        except StrayedError as error:
            self._left_out.append(error)

    def tell(self, notes: Notes | None) -> None:
        """Says how many were left out.

        Args:
            notes: Get the sentence, as a warning; None: every batch is needed.

        Raises:
            StrayedError: None could be followed, or one could not that is needed.
        """
        count = len(self._left_out)
        if count and (notes is None or count == self._number):
            raise self._left_out[0]
        if count and notes is not None:
            notes.warn(tell_left_out(self._number, self._left_out, "the statistics"))
