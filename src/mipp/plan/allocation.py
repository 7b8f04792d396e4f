"""Spreads a budget over the groups at one price."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mipp.errors import InfeasibleBudgetError, amount
from mipp.graph.nodes import width_unit
from mipp.plan.budget import Budget
from mipp.plan.cost import Cost
from mipp.plan.elimination import Elimination
from mipp.plan.plan import look_up
from mipp.plan.quantities import Floats
from mipp.plan.registry import CONSTRAINTS

Unit = Literal["cost", "node"]
Measure = Callable[[str, Mapping[str, int]], float]
"""Called with a constraint and the width of every group."""
_CORRECTIONS = 8


@dataclass(frozen=True)
class Allocation:
    """The number of nodes that every group keeps.

    Attributes:
        widths: Nodes kept, by group.
        slack: Limit minus value, as a fraction of the limit, by constraint.
    """

    widths: dict[str, int]
    slack: dict[str, float]


def allocate(
    eliminations: Mapping[str, Elimination],
    cost: Cost,
    budget: Budget,
    unit: Unit = "cost",
    measure: Measure | None = None,
) -> Allocation:
    """Spreads a budget over the groups at one price.

    The next node to go is always the one that loses least information per unit of the most violated constraint,
    re-evaluated at the current widths, until every constraint holds; then nodes are given back, most informative first,
    while all still hold.

    Args:
        eliminations: Order and loss of the removals, by group (not needed for groups whose width the budget sets).
        cost: The cost functions.
        budget: What must hold.
        unit: "node" prices every node alike, for scores that are not information.
        measure: Measures a network of the given widths; needed where the cost functions only estimate.

    Raises:
        InfeasibleBudgetError: Even the smallest network the budget allows is too large.
    """
    if not budget.estimated:
        return _Allocator(eliminations, cost, budget, unit).run(budget.limits(cost))
    name = budget.estimated[0]
    if measure is None or name not in cost.quantities:
        raise InfeasibleBudgetError(f"A budget of {CONSTRAINTS[name].label} needs a measured network; use mipp.prune.")
    return _within_measured(eliminations, cost, budget, unit, lambda widths: measure(name, widths))


def check_budget(budget: Budget, cost: Cost) -> None:
    """Refuses a budget that even the smallest widths it allows do not meet.

    Raises:
        InfeasibleBudgetError: With the smallest value that can be met.
    """
    allocator = _Allocator({}, cost, budget, "node")
    for group in (cost.groups.index(name) for name in cost.groups if name not in allocator.given):
        while step := allocator._step_down(group):
            allocator.widths[group] -= step
    limits = budget.limits(cost)
    for constraint, limit in limits.items():
        if cost.value(constraint, allocator.widths) > limit * (1 + 1e-12):
            raise allocator._infeasible(constraint, limits)


class _Allocator:
    """State of one allocation: the current widths and what the next removal of each mover would lose."""

    def __init__(self, eliminations: Mapping[str, Elimination], cost: Cost, budget: Budget, unit: Unit) -> None:
        self.cost, self.budget, self.unit = cost, budget, unit
        self.widths = cost.sizes.copy()
        self.slopes = [_convex_slopes(eliminations[name].loss if name in eliminations else ()) for name in cost.groups]
        self.given = _given_widths(cost, budget.widths)
        for name, width in self.given.items():
            size = int(cost.sizes[cost.groups.index(look_up(name, {n: n for n in cost.groups}, "group"))])
            least, multiple = min(budget.min_keep, size), cost.multiples.get(name, 1)
            if not least <= width <= size:
                raise InfeasibleBudgetError(
                    f"widths asks for {width} nodes of group '{name}', which has {size}; expected from {least} "
                    f"(min_keep) to {size}."
                )
            if width % multiple or width < multiple:
                raise InfeasibleBudgetError(
                    f"widths asks for {width} nodes of group '{name}', over which an op runs that takes multiples of "
                    f"{multiple} only; expected {max(round(width / multiple), 1) * multiple}, say."
                )
            self.widths[cost.groups.index(name)] = width
        movers = kinds(cost, self.given, uniform=budget.uniform)
        self.movers = [[cost.groups.index(name) for name in mover] for mover in movers]
        self._counts = np.array([len(mover) for mover in self.movers], float)
        self._lead = np.array([mover[0] for mover in self.movers], np.int64)
        self._member = np.array([g for mover in self.movers for g in mover], np.int64)
        self._mover = np.repeat(np.arange(len(self.movers)), self._counts.astype(np.int64))
        self._steps, self._losses = np.zeros(len(self.movers)), np.zeros(len(self.movers))
        for index in range(len(self.movers)):
            self._update(index)

    def run(self, limits: Mapping[str, float]) -> Allocation:
        while over := {n: v / limits[n] for n, v in self._values(limits).items() if v > limits[n] * (1 + 1e-12)}:
            self._remove(max(over, key=lambda n: over[n]), limits)
        while self._give_back(limits):
            pass
        slack = {n: (limits[n] - v) / max(limits[n], 1e-300) for n, v in self._values(limits).items()}
        return Allocation({n: int(w) for n, w in zip(self.cost.groups, self.widths, strict=True)}, slack)

    def _values(self, limits: Mapping[str, float]) -> dict[str, float]:
        return {n: self._value(n, self.widths) for n in limits}

    def _value(self, constraint: str, widths: Floats) -> float:
        return self.cost.value(constraint, widths)

    def _remove(self, constraint: str, limits: Mapping[str, float]) -> None:
        unit_cost = self.cost.per_group(constraint, self.widths)
        saved = np.bincount(self._mover, unit_cost[self._member], len(self.movers)) * self._steps
        if CONSTRAINTS[constraint].counts_silent:
            saved[self.widths[self._lead] <= 1] = 0
        paid = self._steps * self._counts if self.unit == "node" else saved
        prices = np.where(saved > 0, self._losses / np.where(saved > 0, paid, 1), np.inf)
        best = int(prices.argmin()) if len(prices) else -1
        if best < 0 or not np.isfinite(prices[best]):
            raise self._infeasible(constraint, limits)
        self.widths[self.movers[best]] -= self._steps[best]
        self._update(best)

    def _update(self, index: int) -> None:
        """Notes what the next removal of a mover would take and lose."""
        mover = self.movers[index]
        step = self._step_down(mover[0])
        self._steps[index], self._losses[index] = step, sum(self._loss(g, step) for g in mover)

    def _give_back(self, limits: Mapping[str, float]) -> bool:
        gains: list[tuple[float, int]] = []
        for index, mover in enumerate(self.movers):
            step = self._step_up(mover[0])
            if step:
                gains.append((-sum(self._loss(g, -step) for g in mover), index))
        for _, index in sorted(gains):
            mover = self.movers[index]
            more = self.widths.copy()
            more[mover] += self._step_up(mover[0])
            if all(self._value(n, more) <= limit * (1 + 1e-12) for n, limit in limits.items()):
                self.widths = more
                return True
        return False

    def _loss(self, group: int, step: int) -> float:
        removed = int(self.cost.sizes[group] - self.widths[group])
        span = (
            self.slopes[group][removed : removed + step] if step > 0 else self.slopes[group][removed + step : removed]
        )
        return float(span.sum())

    def _step_down(self, group: int) -> int:
        width, size, unit = int(self.widths[group]), int(self.cost.sizes[group]), self._unit(group)
        step = width % unit or unit
        least = max(self.budget.min_keep, int(self.cost.groups[group] in self.cost.multiples))
        return step if width - step >= min(least, size) else 0

    def _step_up(self, group: int) -> int:
        return min(self._unit(group), int(self.cost.sizes[group] - self.widths[group]))

    def _unit(self, group: int) -> int:
        """Widths are multiples of this."""
        multiple = self.cost.multiples.get(self.cost.groups[group], 1)
        return width_unit(int(self.cost.sizes[group]), multiple, self.budget.round_to)

    def _infeasible(self, constraint: str, limits: Mapping[str, float]) -> InfeasibleBudgetError:
        smallest, dense = self._value(constraint, self.widths), self.cost.dense(constraint)
        return InfeasibleBudgetError(
            f"The budget asks for at most {amount(limits[constraint])} {constraint}, but the frozen layers and the "
            f"least that min_keep={self.budget.min_keep} and round_to={self.budget.round_to} leave in all "
            f"{len(self.cost.groups)} groups need at least {amount(smallest)} of {amount(dense)}; raise {constraint} "
            f"to {_round_up(smallest / dense)} or more."
        )


def _within_measured(
    eliminations: Mapping[str, Elimination],
    cost: Cost,
    budget: Budget,
    unit: Unit,
    measure: Callable[[Mapping[str, int]], float],
) -> Allocation:
    """Prices by the estimate, and corrects its limit until the measured network is within."""
    limits, name = budget.limits(cost), budget.estimated[0]
    limit = aim = limits[name]
    low, high = 0.0, np.inf
    tried: list[Allocation] = []
    for _ in range(_CORRECTIONS):
        try:
            allocation = _Allocator(eliminations, cost, budget, unit).run({**limits, name: aim})
        except InfeasibleBudgetError:
            if not tried:
                raise
            low, aim = aim, 0.5 * (aim + high)
            continue
        reached = measure(allocation.widths)
        tried.append(replace(allocation, slack={**allocation.slack, name: (limit - reached) / limit}))
        if 0 <= limit - reached < 0.03 * limit:
            break
        low, high = (aim, high) if reached <= limit else (low, aim)
        proportional = 0.99 * aim * limit / reached
        slow = low == 0 and len(tried) > _CORRECTIONS // 2  # part of what is measured depends on no width
        aim = proportional if low < proportional < high and not slow else 0.5 * (low + high)
    within = [allocation for allocation in tried if allocation.slack[name] >= 0]
    if not within:
        fastest = limit * (1 - max(allocation.slack[name] for allocation in tried))
        raise InfeasibleBudgetError(
            f"The budget asks for {limit:.3f} {CONSTRAINTS[name].unit}, but the fastest of the networks tried takes "
            f"{fastest:.3f} on this machine; raise {name} to {fastest:.3f} or more."
        )
    return min(within, key=lambda allocation: allocation.slack[name])


def _convex_slopes(loss: Sequence[float]) -> Floats:
    """Slopes of the greatest convex function below the loss: what the next removals cost on average.

    Adjacent violators are pooled; to import `scipy.optimize` for it takes longer than to prune a small network.
    """
    means: list[float] = []
    counts: list[int] = []
    for slope in np.diff(np.asarray(loss, float)).tolist():
        mean, count = slope, 1
        while means and means[-1] >= mean:
            before, number = means.pop(), counts.pop()
            mean, count = (before * number + mean * count) / (number + count), number + count
        means.append(mean)
        counts.append(count)
    return np.repeat(np.array(means, float), counts)


def kinds(cost: Cost, fixed: Collection[str] = (), *, uniform: bool = True) -> list[list[str]]:
    """Groups that have one width, without those fixed.

    Args:
        uniform: Also groups of one size whose names differ in numbers only.
    """
    found: dict[tuple[str, float], list[str]] = {}
    for name, size in zip(cost.groups, cost.sizes.tolist(), strict=True):
        if name not in fixed:
            kind = cost.alike.get(name, name)
            found.setdefault((re.sub(r"\d+", "*", kind) if uniform else kind, size), []).append(name)
    return list(found.values())


def _given_widths(cost: Cost, widths: Mapping[str, int]) -> dict[str, int]:
    """Widths that are given, and those of groups that have the same width as one of these.

    Raises:
        InfeasibleBudgetError: Groups that have one width are given several.
    """
    found = dict(widths)
    leads = {cost.alike[name]: name for name in widths if name in cost.alike}
    for name, lead in cost.alike.items():
        if lead in leads and found.setdefault(name, widths[leads[lead]]) != widths[leads[lead]]:
            raise InfeasibleBudgetError(
                f"widths asks for {found[name]} nodes of group '{name}' and {widths[leads[lead]]} of '{leads[lead]}', "
                "which have one size in one layer; expected the same number for both."
            )
    return found


def _round_up(fraction: float) -> str:
    return f"{min(np.ceil(fraction * 1000 + 1e-9) / 1000, 1.0):.3f}"
