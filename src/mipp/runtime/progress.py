"""Bars on a terminal for what takes long, with the time that remains; elsewhere a line now and then."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
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
            rich_progress.TextColumn("{task.fields[count]}"),
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

    def __call__(
        self, items: Iterable[_T], what: str, total: float | None = None, costs: Sequence[float] | None = None
    ) -> Iterable[_T]:
        """The items, each of them one step of `what`; where steps differ, with what each costs, in any unit."""
        if self._lines is not None:
            return self._lines.steps(items, what, total, costs)
        return self._stepping(items, what, total, costs) if self._shown else items

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Shows that `what` goes on, where nobody knows for how long."""
        for _ in self(iter([None]), what):
            yield

    @border
    def _stepping(
        self, items: Iterable[_T], what: str, total: float | None, costs: Sequence[float] | None
    ) -> Iterator[_T]:
        loop = _Loop(what, _number(items, total), costs)
        task = self._progress.add_task(what, total=loop.whole, count=loop.count)
        self._running += 1
        self._progress.start()
        try:
            for item in items:
                yield item
                loop.done += 1
                self._progress.update(task, completed=loop.paid, count=loop.count)
        finally:
            self._progress.remove_task(task)
            self._running -= 1
            if not self._running:
                self._progress.stop()


def seconds_left(paid: float, whole: float, seconds: float) -> float | None:
    """The time that remains at the rate so far, once a tenth is done.

    Args:
        paid: What the steps that are done cost.
        whole: What all cost.
        seconds: What those that are done took.
    """
    return seconds * (whole - paid) / paid if whole and paid >= whole / 10 else None


def _number(items: object, total: float | None) -> float | None:
    return len(items) if total is None and isinstance(items, Sized) else total


@dataclass
class _Loop:
    """The running phase, with its number of steps and their costs if these are known, and the number done."""

    what: str
    total: float | None
    costs: Sequence[float] | None = None
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def whole(self) -> float | None:
        """The cost of all steps together, 1 each where nothing else is known."""
        return self.total if self.costs is None else sum(self.costs)

    @property
    def paid(self) -> float:
        """The cost of the steps that are done."""
        return self.done if self.costs is None else sum(self.costs[: self.done])

    @property
    def count(self) -> str:
        """The number of steps done, such as "3/20"."""
        return f"{self.done}/{self.total:g}" if self.total else f"{self.done}/?"

    def __str__(self) -> str:
        text = f"{self.what} {self.done} of {self.total:g}" if self.total else self.what
        left = seconds_left(self.paid, self.whole or 0, time.monotonic() - self.began)
        return text if left is None else f"{text}, about {left:.0f} s left"


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
    def steps(self, items: Iterable[_T], what: str, total: float | None, costs: Sequence[float] | None) -> Iterator[_T]:
        loop = _Loop(what, _number(items, total), costs)
        self._open.append(loop)
        try:
            for item in items:
                yield item
                loop.done += 1
        finally:
            self._open.remove(loop)

    def _write(self) -> None:
        while not self._over.wait(SECONDS):
            parts = list(map(str, self._open))
            seconds = time.monotonic() - self._began
            self._console.print(
                f"mipp: {', '.join(parts) or 'working'}; {seconds:.0f} s so far", highlight=False, soft_wrap=True
            )


def silent(items: Iterable[_T], what: str, total: Any = None, costs: Any = None) -> Iterable[_T]:
    """The items, and nothing shown."""
    return items
