"""Runs and draws the experiments of arXiv 2411.00147: `python -m experiments.mipp_2024 FIGURE ... --scale laptop`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from experiments.mipp_2024 import record
from experiments.mipp_2024.figures.base import SCALES, Figure, Piece, Site, fits
from experiments.mipp_2024.figures.registry import FIGURES
from experiments.mipp_2024.setting import check_device
from filelock import FileLock

from mipp import grid
from mipp.cli.errors import unknown
from mipp.errors import MippError, MissingRequirementError
from mipp.zoo import DataSetError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Output:
    """The folders of results and plots."""

    results: Path = record.RESULTS
    plots: Path = record.PLOTS

    @classmethod
    def under(cls, folder: Path) -> "Output":
        """In a folder of somebody's own."""
        return cls(folder / "results", folder / "plots")


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    names: Annotated[list[str], typer.Argument(metavar="FIGURE...", help=f"{', '.join(FIGURES)}, or all.")],
    *,
    scale: Annotated[
        str, typer.Option(help=f"{', '.join(SCALES)}: which networks, and how long they train.")
    ] = "laptop",
    minutes: Annotated[float, typer.Option(help="Begin no run after this many minutes; the next call goes on.")] = 120,
    device: Annotated[str, typer.Option(help="Of the networks: cpu or cuda.")] = "cpu",
    seeds: Annotated[int | None, typer.Option(min=1, help="Fewer or more seeds than usual.")] = None,
    panel: Annotated[str, typer.Option(metavar="TEXT", help="Only panels with this in their name.")] = "",
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    weights: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of the pretrained weights of ResNet-20."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results and plots; else where this is, those of --scale smoke with its runs."),
    ] = None,
) -> None:
    """Run what is missing of figures of the paper, and draw what there is.

    Finished runs are kept, and the next call goes on, from the result file if that is all there is. Start the command
    several times at once, and the processes share what is left to do.
    """
    stop = time.time() + 60 * minutes
    try:
        chosen = _chosen(names, scale)
        check_device(device)
        if out is None and scale == "smoke":
            out = runs / "smoke"
        output = Output() if out is None else Output.under(out)
        for experiment in dict.fromkeys(figure.experiment for figure in chosen.values()):
            figures = {name: figure for name, figure in chosen.items() if figure.experiment == experiment}
            words = f"python -m experiments.mipp_2024 {' '.join(figures)} --scale {scale} --device {device}"
            words += (f" --seeds {seeds}" if seeds else "") + (f" --panel '{panel}'" if panel else "")
            words += " --weights FOLDER" if weights else ""
            site = Site(scale, device, runs.resolve(), weights and weights.resolve(), seeds, panel)  # type: ignore[arg-type]
            try:
                _experiment(figures, site, words, output, partial(_swept, stop=stop))
            except (DataSetError, MissingRequirementError) as error:
                if names != ["all"]:
                    raise
                typer.echo(f"{', '.join(figures)}: left out: {error}", err=True)
    except MippError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


def _chosen(names: Sequence[str], scale: str) -> dict[str, Figure]:
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    if list(names) == ["all"]:
        return {name: figure for name, figure in FIGURES.items() if scale == "smoke" or fits(figure.least, scale)}
    for name in names:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    return {name: FIGURES[name] for name in names}


def _experiment(
    figures: dict[str, Figure],
    site: Site,
    words: str,
    output: Output,
    sweep: Callable[[list[grid.Job]], None],
) -> None:
    """Runs an experiment; the process that finishes last writes and draws what there is."""
    figure = next(iter(figures.values()))
    pieces = [piece for piece in figure.pieces(site) if site.panel in piece.name]
    for name, error in site.lacking.items():
        typer.echo(f"{name}: left out: {error}", err=True)
    if not pieces:
        raise MippError(f"none of the panels of {', '.join(figures)} at this scale has {site.panel!r} in its name")
    record.restore(figure.experiment, pieces, output.results)
    jobs = [job for piece in pieces for job in piece.jobs]
    sweep(jobs)
    if grid.at_work(jobs):
        return
    output.results.mkdir(parents=True, exist_ok=True)
    with FileLock(output.results / f"{figure.experiment}.lock"):
        _told(pieces)
        path = record.save(figure.experiment, words, pieces, output.results)
        found = record.load(figure.experiment, output.results)
        if found is None or not found.rows:
            return
        typer.echo(f"{path.name}: {len(found.rows)} rows")
        for name, each in figures.items():
            each.draw(found.rows, output.plots / f"{name}.svg")
            typer.echo(f"{name}.svg: {each.title}")


def _swept(jobs: list[grid.Job], stop: float) -> None:
    """Does what is left of the jobs."""
    grid.sweep(jobs, lambda: time.time() < stop, lambda job: typer.echo(job.name))


def _told(pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        done = sum(job.path.exists() for job in piece.jobs)
        minutes = piece.remaining() / 60
        left = f"; the rest takes about {minutes:.0f} minutes in one process" if minutes > 0 else ""
        typer.echo(f"{piece.name}: {done} of {len(piece.jobs)} done{left}")


if __name__ == "__main__":
    app(prog_name="python -m experiments.mipp_2024")
