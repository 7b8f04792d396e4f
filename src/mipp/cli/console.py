"""Messages to people beside the result: on stderr, so that stdout holds results only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from rich.console import Console


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Sends to stderr what the code of others prints meanwhile."""
    with redirect_stdout(sys.stderr):
        yield


def note(text: str, *, quiet: bool) -> None:
    """Tells people something that is no result."""
    if not quiet:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without a full stop."""
    return next(iter(str(error).splitlines()), "").rstrip(".")
