"""One run of a grid: prune, and measure straight after, refitted, and trained."""

import copy
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mipp.errors import MippError
from mipp.grid.workload import Workload, digest
from mipp.methods import Method, Task, needs_of
from mipp.pipeline import Result, prune
from mipp.plan import Budget, PruningPlan
from mipp.zoo import accuracy

Row = dict[str, Any]
_FAILED = "error"


@dataclass(frozen=True)
class Run:
    """One method at one budget with one seed."""

    label: str
    method: Method
    budget: Budget
    seed: int

    def name(self, work: Workload) -> str:
        """Names the run by the hash of its options: the same options are the same run."""
        own = {"method": repr(self.method), "budget": self.budget.to_dict(), "seed": self.seed}
        return digest({**own, "workload": work.options()})


def runs(methods: Mapping[str, Method], budgets: Iterable[Budget], seeds: Iterable[int]) -> list[Run]:
    """Every combination, seed by seed, so that a grid that is stopped early has whole seeds."""
    budgets = list(budgets)
    return [Run(label, m, b, seed) for seed in seeds for b in budgets for label, m in methods.items()]


def perform(run: Run, work: Workload, folder: Path) -> Row:
    """Does a run, unless its result is in the folder, and returns the result.

    A method that refuses (a budget that cannot be met, a model it does not fit) leaves its message as the result.
    """
    path = folder / f"{run.name(work)}.json"
    if path.exists():
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        return row
    folder.mkdir(parents=True, exist_ok=True)
    row = {"method": run.label, "record": repr(run.method), "budget": run.budget.to_dict(), "seed": run.seed}
    try:
        row |= _measured(run, work, folder)
    except MippError as error:
        row[_FAILED] = f"{type(error).__name__}: {error}"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**row, "workload": work.options()}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return row


def collect(folder: Path) -> list[Row]:
    """All results in a folder, in the order of method, budget and seed.

    Raises:
        MippError: The folder holds results of different workloads.
    """
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    works = {json.dumps(row["workload"], sort_keys=True) for row in rows}
    if len(works) > 1:
        raise MippError(
            f"{folder} holds the results of {len(works)} different workloads, which no table should mix; use one "
            "folder for each."
        )
    return sorted(rows, key=lambda row: (row["method"], json.dumps(row["budget"]), row["seed"]))


@dataclass(frozen=True)
class _Replay:
    """Keeps what another run kept."""

    plan_: PruningPlan

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        return task.plan(self.plan_.kept, self, budget)


def _measured(run: Run, work: Workload, folder: Path) -> Row:
    dense = work.dense(run.seed, folder)
    start = time.perf_counter()
    result = _pruned(run, work, dense, run.method, compensate=False)
    seconds = time.perf_counter() - start
    stages = {"dense": accuracy(dense, work.test), **_stages("pruned", result.model, run, work)}
    if work.compensate and not needs_of(run.method).reweights:
        refitted = _pruned(run, work, dense, _Replay(result.plan), compensate=True)
        stages |= _stages("refitted", refitted.model, run, work)
    before, after = result.report.before, result.report.after
    sizes = {name: group.size for name, group in result.plan.groups.items()}
    return {
        "accuracy": stages,
        "macs": after.macs / before.macs if before.macs else None,
        "params": after.params / before.params,
        "nodes": sum(result.plan.widths.values()) / sum(sizes.values()),
        "keep": {name: width / sizes[name] for name, width in result.plan.widths.items()},
        "widths": result.plan.widths,
        "collapsed": list(result.plan.collapsed),
        "seconds": {"selection": result.report.seconds["selection"], "whole": seconds},
        "versions": result.report.versions,
    }


def _pruned(run: Run, work: Workload, dense: nn.Module, method: Method, *, compensate: bool) -> Result:
    def train(model: nn.Module, **options: Any) -> None:
        work.whole(model, work.train, run.seed, **options)

    return prune(
        dense,
        work.batches(run.seed),
        run.budget,
        method,
        exclude=work.exclude,
        compensate=compensate,
        loss_fn=nn.functional.cross_entropy,
        train=train,
        seed=run.seed,
        progress=False,
    )


def _stages(name: str, model: nn.Module, run: Run, work: Workload) -> dict[str, float]:
    """Accuracy of a network, and after training a copy of it."""
    found = {name: accuracy(model, work.test)}
    if work.after.epochs:
        trained = copy.deepcopy(model)
        work.after(trained, work.train, run.seed)
        found[f"{name}, trained"] = accuracy(trained, work.test)
    return found
