"""Results on stdout, as text or JSON; messages to people beside them on stderr."""

import json as _json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Sends to stderr what the code of others prints meanwhile."""
    with redirect_stdout(sys.stderr):
        yield


def note(text: str, *, quiet: bool) -> None:
    """Tells people something that is no result."""
    if not quiet:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def show(record: Any, shown: RenderableType, *, json: bool) -> None:
    """Prints a result: the record as JSON, or what people are shown."""
    if json or isinstance(shown, str):
        typer.echo(_json.dumps(record) if json else shown)
    else:
        Console().print(shown)


def table(headings: Iterable[str], names: int = 1) -> Table:
    """A table without lines, whose first columns are names and the others numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="left" if number < names else "right", no_wrap=True)
    return made


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without a full stop."""
    return next(iter(str(error).splitlines()), "").rstrip(".")
