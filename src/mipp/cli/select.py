"""`mipp select`."""

import json as _json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

import mipp
from mipp.cli import arguments, console, sources
from mipp.cli.errors import CommandError
from mipp.cli.options import Source
from mipp.selectors.pixels import DEFAULT_METHOD


def run(
    source: Source,
    settings: Sequence[str],
    num_features: str | None,
    out: Path | None,
    picture: Path | None,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Selects, and writes the selection and its picture."""
    for path in (out, picture):
        if path is not None and (path.exists() or not path.parent.is_dir()):
            why = "exists already; nothing is overwritten" if path.exists() else "is in a folder that does not exist"
            raise CommandError(f"{path} {why}. Choose another file.")
    if picture is not None and picture.suffix not in (".png", ".svg"):
        raise CommandError(f"--picture is '{picture}'; expected a name in .png or .svg.")
    number = None if num_features in (None, "auto") else arguments.amount("num_features", str(num_features))
    method = arguments.with_settings(DEFAULT_METHOD, "mipp", settings)
    with console.only_results_on_stdout():
        selection = _select(source, method, number, quiet=quiet)
    if picture is not None:
        selection.picture(picture)
    if out is not None:
        out.write_text(_json.dumps(selection.to_dict()) + "\n", encoding="utf-8")
    told = f"{len(selection.kept)} of {len(selection.information)} inputs selected."
    console.show(selection.to_dict(), told, json=json)
    written = [str(path) for path in (out, picture) if path is not None]
    console.note(f"Wrote {' and '.join(written)}." if written else "Nothing was written; see --out.", quiet=quiet)


def _select(
    source: Source, method: mipp.methods.MIPP, num_features: float | None, *, quiet: bool
) -> mipp.InputSelection:
    model, data = sources.open_source(source)
    calibration = data.calibration(source.max_samples)
    console = Console(stderr=True)

    def progress(nodes: list[int]) -> Iterable[int]:
        if quiet or not console.is_terminal:
            return nodes
        return track(nodes, "selection", console=console, transient=True)

    return mipp.select_inputs(
        model, calibration, method, num_features=num_features, seed=source.seed, progress=progress
    )
