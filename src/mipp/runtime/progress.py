"""Bars on a terminal for what takes long, with the time that remains; nothing where nobody looks."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from rich import progress as rich_progress
from rich.console import Console

_T = TypeVar("_T")
Progress = Callable[..., Iterable[Any]]
"""Called as `progress(items, "what")`: the items, and maybe a bar."""


class Bars:
    """Wraps iterables to show how far they are; several at once are shown below each other.

    Args:
        enabled: Show anything at all; without a terminal on stderr nothing is shown either.
    """

    def __init__(self, *, enabled: bool) -> None:
        console = Console(stderr=True)
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeRemainingColumn(),
        )
        self._progress = rich_progress.Progress(*columns, console=console, transient=True)
        self._shown = enabled and console.is_terminal
        self._running = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Takes down what an error left standing, before anybody prints the error."""
        if self._running:
            self._progress.stop()

    def __call__(self, items: Iterable[_T], what: str, total: float | None = None) -> Iterable[_T]:
        """The items, each of them one step of `what`."""
        return self._stepping(items, what, total) if self._shown else items

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Shows that `what` goes on, where nobody knows for how long."""
        for _ in self(iter([None]), what):
            yield

    def _stepping(self, items: Iterable[_T], what: str, total: float | None) -> Iterator[_T]:
        total = len(items) if total is None and isinstance(items, Sized) else total
        task = self._progress.add_task(what, total=total)
        self._running += 1
        self._progress.start()
        try:
            for item in items:
                yield item
                self._progress.advance(task)
        finally:
            self._progress.remove_task(task)
            self._running -= 1
            if not self._running:
                self._progress.stop()


def silent(items: Iterable[_T], what: str, total: Any = None) -> Iterable[_T]:
    """The items, and nothing shown."""
    return items
