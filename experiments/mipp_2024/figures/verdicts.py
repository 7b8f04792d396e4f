"""The rule that turns paired runs into an interval and a word.

Runs are paired by seed. Where all of them learnt something, the interval is Student's for the mean difference. Where a
run is dead (no better than guessing), differences are far from normal, so the interval is the exact one for their
median, from their order. An interval that holds zero shows no difference, however large its middle.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

LEVEL = 0.95
"""Confidence of every interval."""
GUESSING = 1.5
"""A run is dead where its accuracy is at most so many times that of guessing."""
Word = Literal["better", "no difference shown", "worse"]


@dataclass(frozen=True)
class Comparison:
    """One method against another, over seeds.

    Attributes:
        middle: Mean of the differences in points; their median where a run is dead.
        low, high: The interval; infinite where there are too few seeds for one.
        seeds: Number of pairs.
        dead: Number of dead runs of the first and of the second method.
    """

    middle: float
    low: float
    high: float
    seeds: int
    dead: tuple[int, int]

    @property
    def word(self) -> Word:
        """The verdict on an interval that lies above zero, holds it, or lies below it."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"

    def __str__(self) -> str:
        dead = f", dead runs {self.dead[0]} against {self.dead[1]}" if any(self.dead) else ""
        kind = "median " if any(self.dead) else ""
        return f"{kind}{self.middle:+.2f} {self.interval}{dead}"

    @property
    def interval(self) -> str:
        """The interval as text."""
        if not math.isfinite(self.low):
            return f"({self.seeds} seed{'s' * (self.seeds != 1)}: no interval)"
        return f"[{self.low:+.2f}, {self.high:+.2f}]"


def compare(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], guessing: float = 0.0) -> Comparison:
    """Compares two methods.

    Args:
        ours: Accuracies of the first method by seed, each a list over the same cases (such as sparsities).
        theirs: The same of the second method, for the same seeds and cases.
        guessing: Accuracy of guessing, in the same unit; 0 where no run can be dead.

    Raises:
        ValueError: The two do not have the same seeds and cases.
    """
    if not ours or [len(run) for run in ours] != [len(run) for run in theirs]:
        raise ValueError("expected accuracies of the same seeds and cases for both methods")
    differences = [
        statistics.fmean(a - b for a, b in zip(one, other, strict=True))
        for one, other in zip(ours, theirs, strict=True)
    ]
    dead = _dead(ours, guessing), _dead(theirs, guessing)
    if any(dead):
        return Comparison(statistics.median(differences), *median_interval(differences), len(differences), dead)
    return Comparison(statistics.fmean(differences), *mean_interval(differences), len(differences), dead)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval for the mean; infinite for one value."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The shortest interval between two of the sorted values that holds the median surely enough.

    Between the k-th smallest and the k-th largest of n values the median lies with probability
    1 - 2 P(B < k), B binomial with n and 1/2. Fewer than six values are never sure enough: the interval is infinite.
    """
    ordered = sorted(values)
    found = (-math.inf, math.inf)
    for k in range(1, len(ordered) // 2 + 1):
        if 1 - 2 * stats.binom.cdf(k - 1, len(ordered), 0.5) >= LEVEL:
            found = ordered[k - 1], ordered[-k]
    return found


def compare_counts(ours: Sequence[bool], theirs: Sequence[bool]) -> Word:
    """Compares how often something bad happened in paired runs, by the exact sign test on those pairs that differ."""
    worse = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    better = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    if better + worse == 0 or stats.binomtest(better, better + worse).pvalue > 1 - LEVEL:
        return "no difference shown"
    return "better" if better > worse else "worse"


def _dead(runs: Sequence[Sequence[float]], guessing: float) -> int:
    return sum(accuracy <= GUESSING * guessing for run in runs for accuracy in run)
