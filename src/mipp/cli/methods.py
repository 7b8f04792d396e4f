"""`mipp methods`."""

import inspect
import json as _json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mipp.cli.arguments import field_names
from mipp.methods import all as all_methods


def run(*, json: bool) -> None:
    """Prints every method with its fields."""
    listed = {name: _described(make()) for name, make in all_methods().items()}
    if json:
        typer.echo(_json.dumps(listed))
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 1, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, method in listed.items():
        fields = "  ".join(f"{field}={default}" for field, default in method["fields"].items())
        table.add_row(name, Text(method["summary"]).append(f"\n{fields}" if fields else "", style="dim"))
    Console().print(table)


def _described(method: object) -> dict[str, Any]:
    paragraph = (inspect.getdoc(type(method)) or "").split("\n\n")[0]
    return {
        "summary": " ".join(paragraph.split()),
        "fields": {name: _plain(getattr(method, name)) for name in field_names(method)},
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else repr(value)
