"""Bars on a terminal for what takes long, with the time that remains; elsewhere a line now and then."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mipp.runtime.mistakes import border

if TYPE_CHECKING:
    from rich.console import Console

_T = TypeVar("_T")
Progress = Callable[..., Iterable[Any]]
"""Called as `progress(items, "what")`: the items, and maybe a bar."""
SECONDS = 10.0
"""Between two lines where there is no terminal."""


class Bars:
    """Wraps iterables to show how far they are; several at once are shown below each other.

    Without a terminal on stderr, as in a pipe or a job's log, a line says every ten seconds how far it is.

    Args:
        enabled: Show anything at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._shown, self._running = False, 0
        self._lines: _Lines | None = None
        if not enabled:
            return
        from rich import progress as rich_progress
        from rich.console import Console

        console = Console(stderr=True)
        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeRemainingColumn(),
        )
        self._progress = rich_progress.Progress(*columns, console=console, transient=True)
        self._shown = console.is_terminal
        self._lines = None if console.is_terminal else _Lines(console)

    def __enter__(self) -> Self:
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes down what an error left standing, before anybody prints the error."""
        if self._lines is not None:
            self._lines.stop()
        if self._running:
            self._progress.stop()

    def __call__(self, items: Iterable[_T], what: str, total: float | None = None) -> Iterable[_T]:
        """The items, each of them one step of `what`."""
        if self._lines is not None:
            return self._lines.steps(items, what, total)
        return self._stepping(items, what, total) if self._shown else items

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Shows that `what` goes on, where nobody knows for how long."""
        for _ in self(iter([None]), what):
            yield

    @border
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


@dataclass
class _Loop:
    """The running phase, with its number of steps if that is known, and the number done."""

    what: str
    total: float | None
    done: int = 0


class _Lines:
    """Writes every ten seconds what goes on; a thread does, since one step may take longer than that."""

    def __init__(self, console: "Console") -> None:
        self._console, self._began = console, time.monotonic()
        self._open: list[_Loop] = []
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        self._writer.start()

    def stop(self) -> None:
        self._over.set()
        self._writer.join()

    @border
    def steps(self, items: Iterable[_T], what: str, total: float | None) -> Iterator[_T]:
        loop = _Loop(what, len(items) if total is None and isinstance(items, Sized) else total)
        self._open.append(loop)
        try:
            for item in items:
                yield item
                loop.done += 1
        finally:
            self._open.remove(loop)

    def _write(self) -> None:
        while not self._over.wait(SECONDS):
            parts = [f"{one.what} {one.done} of {one.total:g}" if one.total else one.what for one in list(self._open)]
            seconds = time.monotonic() - self._began
            self._console.print(
                f"mipp: {', '.join(parts) or 'working'}; {seconds:.0f} s so far", highlight=False, soft_wrap=True
            )


def silent(items: Iterable[_T], what: str, total: Any = None) -> Iterable[_T]:
    """The items, and nothing shown."""
    return items
