"""The plots of a grid: accuracy against cost, what each layer keeps, and collapse."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mipp.grid.results import COSTS, Row
from mipp.grid.summary import Summary, format_budget, stages_of, summarise
from mipp.plan.registry import CONSTRAINTS
from mipp.runtime.requirements import DEMO, require


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes the plots as SVG files and returns their paths.

    Args:
        rows: What `collect` returned.
        folder: Where to; it must exist.

    Raises:
        MissingRequirementError: matplotlib is not installed.
    """
    good = [row for row in rows if "error" not in row]
    if not good:
        return []
    summaries = [s for s in summarise(good) if s.seeds]
    paths = [_against(cost, summaries, folder) for cost in COSTS if any(cost in s.cost for s in summaries)]
    return [*paths, _keep_ratios(good, folder), _collapse(summaries, folder)]


@contextmanager
def _figure(path: Path, columns: int, height: float = 4) -> Iterator[Any]:
    """Axes side by side, of a figure that is saved and closed afterwards."""
    figure = require("matplotlib.figure", "A plot", DEMO).Figure(figsize=(5 * columns, height), layout="constrained")
    yield figure.subplots(1, columns, squeeze=False)[0]
    figure.savefig(path)


def _against(cost: str, summaries: Sequence[Summary], folder: Path) -> Path:
    """Accuracy against one cost, a line per method, a panel per stage."""
    stages = [stage for stage in stages_of(summaries) if stage != "dense"]
    path = folder / f"accuracy-{cost}.svg"
    with _figure(path, len(stages)) as panels:
        for axes, stage in zip(panels, stages, strict=True):
            for method in dict.fromkeys(s.method for s in summaries):
                own = sorted(
                    (s for s in summaries if s.method == method and stage in s.accuracy and cost in s.cost),
                    key=lambda s: s.cost[cost],
                )
                points = [(s.cost[cost], *s.accuracy[stage]) for s in own]
                if points:
                    x, y, spread = zip(*points, strict=True)
                    axes.errorbar(x, y, yerr=spread, marker="o", markersize=3, capsize=2, label=method)
            axes.set(title=stage, xlabel=f"{CONSTRAINTS[cost].label} kept", ylabel="accuracy, %", xscale="log")
        panels[0].legend(fontsize="x-small", ncols=2)
    return path


def _keep_ratios(rows: Sequence[Row], folder: Path) -> Path:
    """Plots the share of nodes that each group keeps: a panel per budget, a line per method; means over the seeds."""
    budgets = list(dict.fromkeys(map(format_budget, rows)))
    path = folder / "keep-ratios.svg"
    with _figure(path, len(budgets)) as panels:
        for axes, budget in zip(panels, budgets, strict=True):
            own = [row for row in rows if format_budget(row) == budget]
            groups = list(dict.fromkeys(group for row in own for group in row["keep"]))
            for method in dict.fromkeys(row["method"] for row in own):
                runs = [row["keep"] for row in own if row["method"] == method]
                axes.plot(
                    [sum(run.get(g, math.nan) for run in runs) / len(runs) for g in groups],
                    marker="o",
                    markersize=3,
                    label=method,
                )
            axes.set(title=budget, ylabel="nodes kept", ylim=(0, 1.05))
            axes.set_xticks(range(len(groups)), groups, rotation=90, fontsize="x-small")
        panels[0].legend(fontsize="x-small", ncols=2)
    return path


def _collapse(summaries: Sequence[Summary], folder: Path) -> Path:
    """In which share of the runs a group was emptied, a bar per method and budget."""
    path = folder / "collapse.svg"
    labels = [f"{s.method} {s.budget}" for s in summaries]
    with _figure(path, 1, height=1.5 + 0.2 * len(labels)) as (axes,):
        axes.barh(labels, [s.collapsed / s.seeds for s in summaries])
        axes.set(xlabel="share of runs that emptied a group", xlim=(0, 1))
        axes.tick_params(axis="y", labelsize="x-small")
    return path
