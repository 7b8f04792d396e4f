"""`mipp inspect`."""

import json as _json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

import mipp
from mipp.cli import arguments, sources


def run(model: str, inputs: Sequence[str], *, weights: Path | None, exclude: Sequence[str], json: bool) -> None:
    """Prints what can be pruned."""
    example = arguments.example(inputs)
    with sources.only_results_on_stdout():
        inspection = mipp.inspect(sources.model(model, weights), example, exclude)
    if json:
        typer.echo(_json.dumps(inspection.to_dict()))
    else:
        Console().print(inspection)
