"""`mipp frontier`."""

import json as _json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
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
    if json:
        rows = [{"budget": name, "report": r.report.to_dict()} for name, r in zip(names, results, strict=True)]
        typer.echo(_json.dumps({"results": rows, "out": None if out is None else str(out)}))
    else:
        Console().print(_table(names, results))
    written = "Nothing was written; --out FOLDER saves every network with its report."
    if out is not None:
        written = f"Saved in {out}, a folder for each budget: {out / names[0] / PAGE} and the others draw the curve."
    console.note(written, quiet=quiet)


def _table(names: Sequence[str], results: Sequence[mipp.Result]) -> Table:
    """A row for the dense network and for each result; a column for each quantity."""
    columns = [summary.rows(result.report) for result in results]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("budget")
    for row in columns[0]:
        table.add_column(row.label, justify="right", no_wrap=True)
    table.add_row("dense", *(row.cells[0] for row in columns[0]))
    for name, rows in zip(names, columns, strict=True):
        table.add_row(name, *(row.cells[1] for row in rows))
    return table
