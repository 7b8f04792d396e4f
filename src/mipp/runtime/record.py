"""The record of a run: sentences for the report, and results that serve again."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
WARNING = "Warning: "
"""The beginning of notes that are warnings."""


class Notes:
    """Sentences for the report: each of them once, in the order in which they came.

    Args:
        sentences: Those there are already.
    """

    def __init__(self, sentences: Iterable[str] = ()) -> None:
        self._sentences = dict.fromkeys(sentences)

    def append(self, sentence: str) -> None:
        """Adds a sentence."""
        self.extend([sentence])

    def extend(self, sentences: Iterable[str]) -> None:
        """Adds sentences."""
        self._sentences.update(dict.fromkeys(sentences))

    @contextmanager
    def apart(self) -> Iterator["Notes"]:
        """Yields notes that get all that is added to these in the block, which stay as they are."""
        before, self._sentences = self._sentences, {}
        own = Notes()
        own._sentences = self._sentences
        try:
            yield own
        finally:
            self._sentences = before

    def warn(self, sentence: str) -> None:
        """Adds a warning."""
        self.append(f"{WARNING}{sentence}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)

    def __len__(self) -> int:
        return len(self._sentences)


def warnings_of(sentences: Iterable[str]) -> tuple[str, ...]:
    """The warnings among the sentences for a report."""
    return tuple(sentence.removeprefix(WARNING) for sentence in sentences if sentence.startswith(WARNING))


class Results:
    """Results kept in memory, with the sentences that belong to them."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Any, Notes]] = {}

    def once(self, key: str, compute: Callable[[], T], notes: Notes) -> T:
        """Returns what `compute` returned when the key first came; `notes` get what it said each time."""
        if key not in self._found:
            with notes.apart() as said:
                self._found[key] = compute(), said
        found: T
        found, said = self._found[key]
        notes.extend(said)
        return found

    def forget(self) -> None:
        """Frees the memory."""
        self._found.clear()
