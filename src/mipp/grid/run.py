"""One run of a grid: prune, and measure straight after, refitted, and trained."""

import copy
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import mipp
from mipp.errors import MippError
from mipp.grid.results import COSTS, Row, read_row
from mipp.grid.store import Job, once
from mipp.grid.workload import Workload, digest
from mipp.modules.placement import device_of
from mipp.report.figures import ratio
from mipp.report.measuring import machine

_FAILED = "error"
_DENSE: dict[str, dict[str, float]] = {}


@dataclass(frozen=True)
class Run:
    """One method at one budget with one seed."""

    label: str
    method: mipp.methods.Method
    budget: mipp.Budget
    seed: int

    def name(self, work: Workload) -> str:
        """Names the run by the hash of its options: the same options are the same run."""
        return _name(repr(self.method), self.budget.to_dict(), self.seed, work.options())


def _name(method: str, budget: dict[str, Any], seed: int, workload: dict[str, Any]) -> str:
    return digest({"method": method, "budget": budget, "seed": seed, "workload": workload})


def runs(methods: Mapping[str, mipp.methods.Method], budgets: Iterable[mipp.Budget], seeds: Iterable[int]) -> list[Run]:
    """Every combination, seed by seed, so that a grid that is stopped early has whole seeds."""
    budgets = list(budgets)
    return [Run(label, m, b, seed) for seed in seeds for b in budgets for label, m in methods.items()]


def perform(run: Run, work: Workload, folder: Path) -> Row:
    """Does a run, unless its result is in the folder, and returns the result.

    A method that refuses (a budget that cannot be met, a model it does not fit) leaves its message as the result.
    """
    once(job(run, work, folder))
    return read_row(_path(run, work, folder))


def job(run: Run, work: Workload, folder: Path) -> Job:
    """A run as a job of `sweep`."""

    def write(path: Path) -> None:
        row = {"method": run.label, "record": repr(run.method), "budget": run.budget.to_dict(), "seed": run.seed}
        try:
            row |= _measure(run, work, folder)
        except MippError as error:
            row[_FAILED] = f"{type(error).__name__}: {error}"
        _write({**row, "machine": machine(), "workload": work.options()}, path)

    name = f"{work.name}, seed {run.seed}: {run.label}, {json.dumps(run.budget.to_dict())}"
    return Job(name, _path(run, work, folder), write)


def trainings(todo: Sequence[Run], work: Workload, folder: Path) -> list[Job]:
    """The dense networks that runs prune, as jobs: done first, several processes train one each."""
    found = (work.training(seed, folder) for seed in dict.fromkeys(run.seed for run in todo))
    return [one for one in found if one is not None]


def read_results(todo: Iterable[Run], work: Workload, folder: Path) -> list[Row]:
    """The results of those of these runs that are finished, in order, under the runs' own labels."""
    paths = [(run, _path(run, work, folder)) for run in todo]
    return [{**read_row(path), "method": run.label} for run, path in paths if path.exists()]


def remaining(todo: Iterable[Run], work: Workload, folder: Path) -> float:
    """Seconds that the missing runs take in one process, each as long as those of its method on average."""
    todo = list(todo)
    rows = [row for row in read_results(todo, work, folder) if _FAILED not in row]
    seconds: dict[str, list[float]] = {}
    for row in rows:
        seconds.setdefault(row["method"], []).append(row["seconds"]["run"])
    usual = statistics.fmean(row["seconds"]["run"] for row in rows) if rows else float("nan")
    missing = [run for run in todo if not _path(run, work, folder).exists()]
    return sum(statistics.fmean(seconds[run.label]) if run.label in seconds else usual for run in missing)


def restore(rows: Iterable[Row], folder: Path) -> None:
    """Puts results back that were kept elsewhere, so that these runs are not done again.

    Args:
        rows: As `read_results` returned them, with all that they had.
        folder: Where the runs of a grid are; results that are there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = folder / f"{_name(row['record'], row['budget'], row['seed'], row['workload'])}.json"
        once(Job(path.stem, path, partial(_write, row)))


def collect(folder: Path, work: Workload | None = None) -> list[Row]:
    """All results in a folder, in the order of method, budget and seed.

    Args:
        folder: Where the runs of a grid are.
        work: What is to be added to them, if anything is.

    Raises:
        MippError: These are results of different workloads.
    """
    rows = [read_row(path) for path in sorted(folder.glob("*.json"))]
    works = {json.dumps(row["workload"], sort_keys=True) for row in rows}
    works |= set() if work is None else {json.dumps(work.options(), sort_keys=True)}
    if len(works) > 1:
        raise MippError(
            f"{folder} would hold the results of {len(works)} different workloads, which no table should mix; use one "
            "folder for each."
        )
    return sorted(rows, key=lambda row: (row["method"], json.dumps(row["budget"]), row["seed"]))


def _write(row: Row, path: Path) -> None:
    path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def _path(run: Run, work: Workload, folder: Path) -> Path:
    return folder / f"{run.name(work)}.json"


def _measure(run: Run, work: Workload, folder: Path) -> Row:
    start = time.perf_counter()
    dense = work.dense(run.seed, folder)
    trained = time.perf_counter()
    compensate = work.compensate and not mipp.methods.needs_of(run.method).reweights
    result = _prune(run, work, dense, compensate=compensate)
    seconds = result.report.seconds
    bare = mipp.apply(result.plan, dense) if compensate else result.model
    stages = {"dense": _measure_dense(dense, run, work, folder), **_stages("pruned", bare, run, work)}
    if compensate:
        stages |= _stages("refitted", result.model, run, work)
    before, after = result.report.before, result.report.after
    sizes = {name: group.size for name, group in result.plan.groups.items()}
    names = list(dict.fromkeys(name for values in stages.values() for name in values))
    return {
        **{name: {stage: values[name] for stage, values in stages.items()} for name in names},
        **{name: ratio(getattr(after, name), getattr(before, name)) for name in COSTS},
        "keep": {name: width / sizes[name] for name, width in result.plan.widths.items()},
        "widths": result.plan.widths,
        "collapsed": list(result.plan.collapsed),
        "information": result.plan.information,
        "device": str(device_of(dense)),
        "seconds": {
            "selection": seconds["selection"],
            "whole": sum(value for phase, value in seconds.items() if phase not in ("compensation", "report")),
            "run": time.perf_counter() - trained,
            "training": trained - start,
        },
    }


def _measure_dense(dense: nn.Module, run: Run, work: Workload, folder: Path) -> dict[str, float]:
    """The accuracy of the dense network, which all runs of a seed share: measured once in a process."""
    key = digest({"workload": work.options(), "seed": run.seed, "folder": str(folder)})
    if key not in _DENSE:
        _DENSE[key] = work.measure(dense)
    return dict(_DENSE[key])


def _prune(run: Run, work: Workload, dense: nn.Module, *, compensate: bool) -> mipp.Result:
    def train(model: nn.Module, **options: Any) -> None:
        work.whole(model, work.train, run.seed, **options)

    return mipp.prune(
        dense,
        mipp.Calibration(work.batches(run.seed), max_samples=None),
        run.budget,
        run.method,
        exclude=work.exclude,
        compensate=compensate,
        loss_fn=nn.functional.cross_entropy,
        train=train,
        seed=run.seed,
        progress=False,
    )


def _stages(name: str, model: nn.Module, run: Run, work: Workload) -> dict[str, dict[str, float]]:
    """The accuracy of a network, and after each training of a copy of it."""
    found = {name: work.measure(model)}
    for suffix, recipe in work.trainings_after().items():
        trained = copy.deepcopy(model)
        recipe(trained, work.train, run.seed)
        found[f"{name}, {suffix}"] = work.measure(trained)
    return found
