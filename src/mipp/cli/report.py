"""`mipp report`."""

import json as _json
from pathlib import Path

import typer
from rich.console import Console

from mipp.storage.folder import read_report


def run(folder: Path, *, html: Path | None, json: bool) -> None:
    """Prints the report of a saved result, or writes its page anew."""
    report = read_report(folder)
    if html is not None:
        report.to_html(html)
    if json:
        typer.echo(_json.dumps(report.to_dict()))
    else:
        Console().print(report)
