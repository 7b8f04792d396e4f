"""`mipp methods`."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

import mipp
from mipp.cli import console
from mipp.cli.arguments import field_names

_STAGES = {"any": "before or after training", "initialisation": "before training", "trained": "after training"}


def run(*, json: bool) -> None:
    """Prints every method with what it needs and its fields."""
    listed = {name: _describe(make()) for name, make in mipp.methods.all().items()}
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 1, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, method in listed.items():
        fields = "  ".join(f"{field}={default}" for field, default in method["fields"].items())
        about = "\n".join(line for line in (_requirements(method["needs"]), fields) if line)
        table.add_row(name, Text(method["summary"]).append(f"\n{about}", style="dim"))
    console.show(listed, table, json=json)


def _describe(method: object) -> dict[str, Any]:
    paragraph = (inspect.getdoc(type(method)) or "").split("\n\n")[0]
    return {
        "summary": " ".join(paragraph.split()),
        "needs": asdict(mipp.methods.needs_of(method)),
        "fields": {name: _plain(getattr(method, name)) for name in field_names(method)},
    }


def _requirements(needs: Mapping[str, Any]) -> str:
    named = [name for name in ("data", "labels", "gradients", "training") if needs[name]]
    stage = _STAGES[needs["stage"]]
    widths = "finds the widths" if needs["widths"] == "own" else "cuts all groups alike"
    return f"needs {', '.join(named) or 'nothing'}; passes: {needs['passes']}; {stage}; {widths}"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else repr(value)
