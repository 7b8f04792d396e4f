"""`mipp report`."""

import json as _json
from pathlib import Path

import typer
from rich.console import Console

import mipp
from mipp.cli.errors import CommandError
from mipp.storage.places import PAGE, REPORT


def run(folder: Path, *, html: Path | None, json: bool) -> None:
    """Prints the report of a saved result, or writes its page anew."""
    path = folder / REPORT
    try:
        data = _json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CommandError(f"There is no {path}; expected a folder that `mipp prune --out` or save() wrote.") from error
    except (OSError, ValueError) as error:
        raise CommandError(
            f"{path} cannot be read ({error}); it is damaged. {folder / PAGE} may still open."
        ) from error
    report = mipp.report.Report.from_dict(data)
    if html is not None:
        report.to_html(html)
    if json:
        typer.echo(_json.dumps(report.to_dict()))
    else:
        Console().print(report)
