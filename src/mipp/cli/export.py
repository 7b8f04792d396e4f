"""`mipp export`."""

import json as _json
from collections.abc import Sequence
from pathlib import Path

import typer

from mipp.cli import arguments, sources
from mipp.export import export


def run(model: str, inputs: Sequence[str], *, weights: Path | None, out: Path, json: bool) -> None:
    """Exports, checks, and says by how much the file differs from the model."""
    example = arguments.example(inputs)
    with sources.only_results_on_stdout():
        gap = export(sources.model(model, weights), example, out)
    if json:
        typer.echo(_json.dumps({"out": str(out), "difference": gap}))
    else:
        typer.echo(f"Wrote {out}; it was run, and differs from the model by {gap:.1g} of the largest output.")
