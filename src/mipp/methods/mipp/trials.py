"""Plans by trial: networks of other widths and nodes are refitted, and the nearest to the dense outputs stays."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from mipp.errors import UnsupportedModelError
from mipp.graph.trace import forward
from mipp.methods.mipp.worth import finite, output_distance
from mipp.modules.copies import working_copy
from mipp.plan.allocation import kinds
from mipp.plan.budget import Budget
from mipp.plan.elimination import Elimination
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.least_squares import refit
from mipp.refit.losses import floating
from mipp.refit.settings import Refit
from mipp.runtime.distributed import gather
from mipp.runtime.progress import silent
from mipp.surgery.cut import apply

_SHARE = 0.1  # of the nodes of a group, that go to another one

Widths = Mapping[str, int]
Curves = Mapping[str, Elimination]
Choose = Callable[[Widths], PruningPlan]
"""The nodes to keep at given widths."""
Candidate = tuple[Mapping[str, object], Callable[[], PruningPlan]]
"""The widths or the nodes of a plan, by group, and what makes it, which is asked only where it is tried."""


def try_others(
    task: Task, budget: Budget, plan: PruningPlan, curves: Curves, choose: Choose, trials: int
) -> PruningPlan:
    """The best of several plans, by how far the refitted networks are from the dense one on the calibration data.

    First other widths: a tenth of the nodes of one group make room for nodes of another one, and where no such move
    helps, two of them at once. Then other nodes: one that stays changes places with one that goes. A plan that comes
    nearer is kept at once, and what follows starts from there; it ends when nothing helps, or the trials are used up.
    Moves that lose least by the curves come first. Nothing is tried where the budget is of measured times, or of
    uniform widths.

    Args:
        task: What is pruned.
        budget: What must hold.
        plan: The plan to start with.
        curves: Priced losses of the groups whose widths may change.
        choose: Makes a plan of widths.
        trials: How many networks are made at most, besides the one to start with.
    """
    if budget.uniform or budget.estimated:
        return plan
    search = _Search(task, plan, trials)
    try:
        search.descend(lambda best: ((w, partial(choose, w)) for w in _moves(task, budget, best.widths, curves)))
        search.descend(lambda best: _exchanges(best, curves))
    except UnsupportedModelError as error:
        task.notes.append(f"No other widths were tried, since the network could not be refitted: {error}")
    return search.best


class _Search:
    """A descent over plans."""

    def __init__(self, task: Task, plan: PruningPlan, trials: int) -> None:
        self.task, self.best = task, plan
        self._left = iter(task.progress(range(trials), "trials of widths and nodes", trials))
        self._distance: float | None = None
        self._tried = {_key(plan.widths), _key(plan.kept)}

    def descend(self, neighbours: Callable[[PruningPlan], Iterable[Candidate]]) -> None:
        """Goes to the first neighbour that is nearer to the dense network, until none is."""
        if self._distance is None:
            self._distance = _distance(self.task, self.best)
        improved = True
        while improved:
            improved = False
            for change, make in neighbours(self.best):
                if _key(change) in self._tried:
                    continue
                if next(self._left, None) is None:
                    return
                other = make()
                self._tried |= {_key(change), _key(other.kept)}
                distance = _distance(self.task, other)
                if distance < self._distance:
                    self.best, self._distance, improved = other, distance, True
                    break


def _distance(task: Task, plan: PruningPlan) -> float:
    """The distance of the refitted outputs from the dense ones, the mean over the calibration samples."""

    def measure() -> float:
        if obstacle := task.graph.program.not_replayable:
            raise UnsupportedModelError(obstacle)
        small = apply(plan, task.model)
        refit(small, task.model, plan, replace(task, progress=silent), Refit())
        models, total, samples = [working_copy(model) for model in (small, task.model)], 0.0, 0
        for batch in task.batches:
            found, dense = (floating(forward(model, batch.call)) for model in models)
            with torch.no_grad():
                total += batch.samples * output_distance(found, dense)
            samples += batch.samples
        parts = gather((total, samples))
        return finite(sum(part for part, _ in parts) / sum(count for _, count in parts))

    return task.step(f"trial of {json.dumps({n: list(nodes) for n, nodes in plan.kept.items()})}", measure)


def _moves(task: Task, budget: Budget, widths: Widths, curves: Curves) -> Iterator[dict[str, int]]:
    """Widths one move away that the budget allows, then those two moves away; of each those that lose least first."""

    def loss(moved: Widths) -> float:
        return sum(curve.loss[len(curve.order) - moved[name]] for name, curve in curves.items())

    near = sorted(_neighbours(task, budget, widths, curves), key=loss)
    yield from near
    far = [moved for first in near for moved in _neighbours(task, budget, first, curves)]
    yield from sorted(far, key=loss)


def _exchanges(plan: PruningPlan, curves: Curves) -> Iterator[Candidate]:
    """Plans in which one node changes places with one that goes; first those that were removed next and last."""
    sides: dict[str, tuple[list[int], list[int]]] = {}
    for name, curve in sorted(curves.items()):
        order, held = [int(node) for node in curve.order], set(plan.kept[name])
        sides[name] = [node for node in order if node in held], [node for node in order[::-1] if node not in held]
    for far in range(max(len(curve.order) for curve in curves.values())):
        for name, (stay, go) in sides.items():
            places = range(max(0, far - len(go) + 1), min(far + 1, len(stay)))
            for out, back in sorted((stay[place], go[far - place]) for place in places):
                kept = {**plan.kept, name: tuple(sorted({*plan.kept[name], back} - {out}))}
                yield kept, partial(plan.with_kept, kept)


def _neighbours(task: Task, budget: Budget, widths: Widths, curves: Curves) -> Iterator[dict[str, int]]:
    """Widths in which one group gives nodes away, and another has as many more as the budget then allows."""
    limits = {name: limit * (1 + 1e-12) for name, limit in budget.limits(task.cost).items()}

    def holds(moved: Widths) -> bool:
        array = task.cost.widths(moved)
        return all(task.cost.value(name, array) <= limit for name, limit in limits.items())

    groups = task.graph.groups
    movers = [
        kind for kind in kinds(task.cost, uniform=False) if kind[0] in curves
    ]  # groups of one width move together
    units = {kind[0]: groups[kind[0]].unit(budget.round_to) for kind in movers}
    for giver in movers:
        width, unit = widths[giver[0]], units[giver[0]]
        given = max(round(_SHARE * width / unit), 1) * unit
        rest = (width - given) // unit * unit
        if rest < max(groups[giver[0]].least(budget.min_keep), unit):
            continue
        fewer = {**widths, **dict.fromkeys(giver, rest)}
        for taker in (kind for kind in movers if kind is not giver):
            width, unit = widths[taker[0]], units[taker[0]]
            low, high = 0, (groups[taker[0]].size - width) // unit
            while low < high:  # the most that still holds
                middle = (low + high + 1) // 2
                fits = holds({**fewer, **dict.fromkeys(taker, width + middle * unit)})
                low, high = (middle, high) if fits else (low, middle - 1)
            if low:
                yield {**fewer, **dict.fromkeys(taker, width + low * unit)}


def _key(change: Mapping[str, object]) -> frozenset[tuple[str, object]]:
    return frozenset(change.items())
