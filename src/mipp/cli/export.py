"""`mipp export`."""

from collections.abc import Sequence
from pathlib import Path

import mipp
from mipp.cli import arguments, console
from mipp.cli.models import make_model
from mipp.cli.options import ModelSource


def run(model: ModelSource, inputs: Sequence[str], dynamic: Sequence[int] | None, *, out: Path, json: bool) -> None:
    """Exports, checks, and says by how much the file differs from the model."""
    example = arguments.example(inputs)
    with console.only_results_on_stdout():
        gap = mipp.export.export(make_model(model), example, out, dynamic)
    written = f"Wrote {out}; it was run, and differs from the model by {gap:.1g} of the largest output."
    console.show({"out": str(out), "difference": gap}, written, json=json)
