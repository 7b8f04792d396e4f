"""One table of a grid: means and spreads over the seeds."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mipp.grid.results import COSTS, Row
from mipp.plan.registry import CONSTRAINTS


@dataclass(frozen=True)
class Summary:
    """One method at one budget, over its seeds.

    Attributes:
        method: Its label.
        budget: The budget as text.
        seeds: How many runs succeeded.
        failed: Why others did not.
        accuracy: Mean and standard deviation by stage, in percent.
        cost: Mean fraction kept of what is counted, such as MACs, by constraint.
        collapsed: In how many runs a group was emptied.
        seconds: Mean time of the selection.
    """

    method: str
    budget: str
    seeds: int
    failed: tuple[str, ...]
    accuracy: dict[str, tuple[float, float]]
    cost: dict[str, float]
    collapsed: int
    seconds: float


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Means over the seeds, by method and budget, in the order in which they first appear."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], format_budget(row)), []).append(row)
    return [_summary(method, budget, members) for (method, budget), members in cells.items()]


def format_budget(row: Row) -> str:
    """The budget of a row as text."""
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in row["budget"].items())


def markdown(summaries: Sequence[Summary]) -> str:
    """The table in Markdown."""
    lines = [headings(summaries), ["---"] * len(headings(summaries)), *(cells(s, summaries) for s in summaries)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def stages_of(summaries: Sequence[Summary]) -> list[str]:
    """All stages that anything was measured at, in order."""
    return list(dict.fromkeys(stage for s in summaries for stage in s.accuracy))


def costs_of(summaries: Sequence[Summary]) -> list[str]:
    """All constraints of which the fraction kept is known, in order."""
    return [name for name in COSTS if any(name in s.cost for s in summaries)]


def headings(summaries: Sequence[Summary]) -> list[str]:
    """The headings of the table."""
    costs = [CONSTRAINTS[name].label for name in costs_of(summaries)]
    return ["method", "budget", *stages_of(summaries), *costs, "collapsed", "selection, s"]


def cells(summary: Summary, summaries: Sequence[Summary]) -> list[str]:
    """One line of the table."""
    stages, costs_known = stages_of(summaries), costs_of(summaries)
    if not summary.seeds:
        return [
            summary.method,
            summary.budget,
            *["–"] * (len(stages) + len(costs_known) + 1),
            summary.failed[0].split(":")[0],
        ]
    marks = [_spread(*summary.accuracy[stage]) if stage in summary.accuracy else "–" for stage in stages]
    costs = [f"{100 * summary.cost[name]:.1f} %" if name in summary.cost else "–" for name in costs_known]
    collapsed = f"{summary.collapsed} of {summary.seeds}"
    return [summary.method, summary.budget, *marks, *costs, collapsed, f"{summary.seconds:.2f}"]


def _summary(method: str, budget: str, rows: Sequence[Row]) -> Summary:
    good = [row for row in rows if "error" not in row]
    stages = list(dict.fromkeys(stage for row in good for stage in row["accuracy"]))
    accuracy = {s: _moments([row["accuracy"][s] for row in good if s in row["accuracy"]]) for s in stages}
    costs = {name: [row[name] for row in good if row.get(name) is not None] for name in COSTS}
    return Summary(
        method,
        budget,
        len(good),
        tuple(row["error"] for row in rows if "error" in row),
        accuracy,
        {name: statistics.fmean(values) for name, values in costs.items() if values},
        sum(bool(row["collapsed"]) for row in good),
        statistics.fmean(row["seconds"]["selection"] for row in good) if good else 0.0,
    )


def _moments(values: Sequence[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.2f} ± {deviation:.2f}" if deviation else f"{mean:.2f}"
