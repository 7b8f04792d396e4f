"""`mipp inspect`."""

from collections.abc import Sequence

import mipp
from mipp.cli import arguments, console
from mipp.cli.models import make_model
from mipp.cli.options import ModelSource


def run(model: ModelSource, inputs: Sequence[str], *, exclude: Sequence[str], json: bool) -> None:
    """Prints what can be pruned."""
    example = arguments.example(inputs)
    with console.only_results_on_stdout():
        inspection = mipp.inspect(make_model(model), example, exclude)
    console.show(inspection.to_dict(), inspection, json=json)
