"""Figures and their pieces, each a list of jobs that leave one row of results each."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from mipp import grid
from mipp.errors import MippError, MissingRequirementError
from mipp.grid.workload import digest
from mipp.report.measuring import machine
from mipp.zoo import DataSetError

Row = dict[str, Any]
_CASE = ("panel", "budget", "nodes kept", "kept", "seed")
"""What runs must share for their methods to be compared."""
Scale = Literal["smoke", "laptop", "gpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
Measurement = tuple[Row, Callable[[], Row]]
Verdict = Literal["better", "no difference shown", "worse", "supported", "not shown", "contradicted"]
"""The first three compare methods (see `verdicts`); the others are on claims of another form."""


class Outcome(NamedTuple):
    """The verdict of the rows about a figure.

    Attributes:
        words: With the numbers.
        where: The panel and the stage, or nothing where there is one only.
        verdict: On what the paper says of it; None where it says nothing that could fail.
    """

    words: str
    where: str = ""
    verdict: Verdict | None = None

    def __str__(self) -> str:
        head = " ".join(filter(None, (self.verdict and f"**{self.verdict}**", self.where)))
        return f"{head}: {self.words}" if head else self.words


@dataclass(frozen=True)
class Site:
    """The settings of the machine on which experiments run.

    Attributes:
        scale: "smoke": seconds, on digits. "laptop", "gpu": shortened recipes. "paper": those of its Table 2.
        device: Of the networks.
        runs: Folder of the runs.
        weights: Folder of pretrained weights.
        seeds: Fewer or more seeds than usual.
        panel: What the names of the panels to run have in them.
        lacking: Panels that are left out, each with what it lacks; `some` adds to them.
    """

    scale: Scale = "laptop"
    device: str = "cpu"
    runs: Path = Path("runs")
    weights: Path | None = None
    seeds: int | None = None
    panel: str = ""
    lacking: dict[str, MippError] = field(default_factory=dict, compare=False)

    def some(self, makers: Mapping[str, "Callable[[], Piece]"]) -> "list[Piece]":
        """The pieces of these names that are wanted and whose data are there.

        Raises:
            DataSetError, MissingRequirementError: No data are there for any of them.
        """
        found = []
        for name, make in makers.items():
            if self.panel not in name:
                continue
            try:
                found.append(make())
            except (DataSetError, MissingRequirementError) as error:
                self.lacking[name] = error
        if not found and self.lacking:
            raise next(iter(self.lacking.values()))
        return found

    def folder(self, name: str) -> Path:
        """The folder of the runs of a piece."""
        return self.runs / ("smoke" if self.scale == "smoke" else "grids") / name


def fits(least: Scale, scale: Scale) -> bool:
    """True if a scale includes what needs at least a given one; "smoke" is part of no other."""
    return scale == "smoke" if least == "smoke" else SCALES.index(least) <= SCALES.index(scale)


@dataclass(frozen=True)
class Piece:
    """Jobs that belong together.

    Attributes:
        name: The panel of the figure, and a field of each of its rows.
        settings: What all rows have in common.
        seeds: Those that it is about; a result file may hold others.
        jobs: What is to be done; each writes a row, or a network that others need.
        rows: The rows there are.
        remaining: Seconds that the missing rows take in one process.
        restore: Puts rows of an earlier result file, with the same settings, back where the jobs look for them.
    """

    name: str
    settings: Row
    seeds: frozenset[int]
    jobs: Sequence[grid.Job]
    rows: Callable[[], list[Row]]
    remaining: Callable[[], float]
    restore: Callable[[list[Row]], None]


@dataclass(frozen=True)
class Figure:
    """A figure or table.

    Attributes:
        title: What it shows.
        experiment: The name of its result file; figures that share their runs share it.
        pieces: What to run at a scale.
        draw: Draws the rows into a file.
        says: What the paper says that it shows, or what its reviewers asked.
        tolerance: What counts as the same.
        outcome: What the rows say about each panel.
        least: The smallest scale at which there is anything to run.
    """

    title: str
    experiment: str
    pieces: Callable[[Site], list[Piece]]
    draw: Callable[[list[Row], Path], object]
    says: str
    tolerance: str = "–"
    outcome: Callable[[list[Row]], list[Outcome]] = lambda rows: []
    least: Scale = "laptop"


def of_grid(name: str, work: grid.Workload, todo: Sequence[grid.Run], folder: Path) -> Piece:
    """Runs of the grid."""

    def rows() -> list[Row]:
        return [{"panel": name, **row} for row in grid.read_results(todo, work, folder)]

    def restore(found: list[Row]) -> None:
        whole = ({**row, "workload": work.options()} for row in found)
        grid.restore(({k: v for k, v in row.items() if k != "panel"} for row in whole), folder)

    jobs = [*grid.trainings(todo, work, folder), *(grid.job(run, work, folder) for run in todo)]
    seeds = frozenset(run.seed for run in todo)
    return Piece(name, work.options(), seeds, jobs, rows, lambda: grid.remaining(todo, work, folder), restore)


def of_measurements(name: str, settings: Row, todo: Iterable[Measurement], folder: Path) -> Piece:
    """Measurements that are no runs of the grid: options that name each, and a function for the rest of its row.

    A measurement that mipp refuses leaves its message as the result.
    """
    todo = list(todo)
    jobs = [_job(name, settings, key, function, folder) for key, function in todo]

    def rows() -> list[Row]:
        return [json.loads(job.path.read_text(encoding="utf-8")) for job in jobs if job.path.exists()]

    def remaining() -> float:
        seconds = [row["seconds"]["run"] for row in rows()]
        missing = sum(not job.path.exists() for job in jobs)
        return missing * (statistics.fmean(seconds) if seconds else math.nan) if missing else 0.0

    def restore(found: list[Row]) -> None:
        for job, (key, _) in zip(jobs, todo, strict=True):
            known = json.loads(json.dumps(key))
            for row in found:
                if all(row.get(k) == v for k, v in known.items()):
                    grid.once(replace(job, write=partial(_write, row)))

    return Piece(name, settings, frozenset(key["seed"] for key, _ in todo), jobs, rows, remaining, restore)


def _job(name: str, settings: Row, key: Row, function: Callable[[], Row], folder: Path) -> grid.Job:
    def write(path: Path) -> None:
        start = time.perf_counter()
        try:
            row = function()
        except MippError as error:
            row = {"error": f"{type(error).__name__}: {error}"}
        seconds = {**row.pop("seconds", {}), "run": time.perf_counter() - start}
        _write({"panel": name, **key, **row, "seconds": seconds, "machine": machine()}, path)

    words = ", ".join(f"{k}={v}" for k, v in key.items())
    return grid.Job(f"{name}: {words}", folder / f"{digest({'settings': settings, 'key': key})}.json", write)


def _write(row: Row, path: Path) -> None:
    path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def good(rows: Iterable[Row], **key: Any) -> list[Row]:
    """The rows with these values that did not fail."""
    return [row for row in rows if "error" not in row and all(row.get(k) == v for k, v in key.items())]


def by(rows: Iterable[Row], *names: str) -> Mapping[tuple[Any, ...], list[Row]]:
    """Rows by the values of these fields, in the order in which they appear."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(_hashable(row.get(name)) for name in names), []).append(row)
    return found


def matched(rows: Sequence[Row], methods: Sequence[str] | None = None) -> list[Row]:
    """The rows of methods (None: all) in the cases that every one of them has: the same budget, pixels and seed."""
    names = list(dict.fromkeys(row["method"] for row in rows)) if methods is None else methods
    cases = {name: set(by(good(rows, method=name), *_CASE)) for name in names}
    common = set.intersection(*cases.values()) if cases else set()
    return [
        row for case, own in by(good(rows), *_CASE).items() if case in common for row in own if row["method"] in names
    ]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
