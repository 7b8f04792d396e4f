"""`mipp frontier`."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

import mipp
from mipp.cli import arguments, console
from mipp.cli.errors import CommandError
from mipp.cli.options import Chosen, Source
from mipp.cli.prune import prepare, refuse_existing, saver, since_dense
from mipp.report import summary
from mipp.storage.places import PAGE, new_folder


def run(source: Source, budgets: str, chosen: Chosen, out: Path | None, *, json: bool, quiet: bool) -> None:
    """Prunes to several budgets and prints the curve; each result has a folder, whose report draws it."""
    refuse_existing(out)
    asked = arguments.budgets(budgets)
    names = [part.strip().replace(":", "_") for part in budgets.split(",")]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise CommandError(f"--budgets has {twice[0]} twice; expected each budget once.")
    with console.only_results_on_stdout():
        call = prepare(source, asked, chosen, quiet=quiet)
        results = mipp.frontier(call.model, call.calibration, asked, call.method, **call.options)
        results = since_dense(results, source.model, quiet=quiet)
    if out is not None:
        save = saver(source)
        with new_folder(out) as part:
            for name, result in zip(names, results, strict=True):
                save(result, part / name, out / name)
    rows = [{"budget": name, "report": r.report.to_dict()} for name, r in zip(names, results, strict=True)]
    record = {"results": rows, "out": None if out is None else str(out)}
    console.show(record, _table(names, results), json=json)
    written = "Nothing was written; --out FOLDER saves every network with its report."
    if out is not None:
        written = f"Saved in {out}, a folder for each budget: {out / names[0] / PAGE} and the others draw the curve."
    console.note(written, quiet=quiet)


def _table(names: Sequence[str], results: Sequence[mipp.Result]) -> Table:
    """A row for the dense network and for each result; a column for each quantity."""
    columns = [summary.rows(result.report) for result in results]
    table = console.table(["budget", *(row.label for row in columns[0])])
    table.add_row("dense", *(row.cells[0] for row in columns[0]))
    for name, rows in zip(names, columns, strict=True):
        table.add_row(name, *(row.cells[1] for row in rows))
    return table
