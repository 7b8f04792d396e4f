"""Rows of result files as numbers: the stage that counts, means, and runs that methods share."""

import statistics
from collections.abc import Iterable, Sequence

from experiments.mipp_2024.figures.base import Row, by, good, matched, spread


def last(rows: Sequence[Row]) -> str:
    """The last stage without refit, where there is one."""
    stages = [s for r in rows[:1] for s in r["accuracy"] if s != "dense"]
    return ([s for s in stages if s.startswith("pruned")] or stages)[-1]


def of_methods(rows: Sequence[Row], methods: Sequence[str]) -> list[Row]:
    """The rows of those of the methods that there are, in the cases that all of these have."""
    return matched(rows, [m for m in methods if good(rows, method=m)])


def mean_accuracy(rows: Iterable[Row], stage: str, metric: str = "accuracy") -> dict[str, float]:
    """Mean accuracy of each method that has the stage."""
    each = {m: accuracies(own, stage, metric) for (m,), own in by(rows, "method").items()}
    return {m: statistics.fmean(values) for m, values in each.items() if values}


def mean_of(rows: Sequence[Row], key: str) -> float:
    return spread([row[key] for row in rows])[0]


def accuracies(rows: Iterable[Row], stage: str, metric: str = "accuracy") -> list[float]:
    return [row[metric][stage] for row in rows if stage in row.get(metric, ())]


def share_lost(rows: Sequence[Row]) -> float:
    """Share of the information that the removed nodes took with them, mean over groups and runs."""
    return statistics.fmean(lost / whole for row in rows for lost, whole in row["information"].values() if whole)
