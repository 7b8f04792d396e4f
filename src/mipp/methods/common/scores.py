"""From scores of weights to scores of nodes, and scoring in rounds: what many methods share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mipp.graph.nodes import NodeGroup, PruningGraph
from mipp.methods.base import require_target, select
from mipp.methods.common.slices import axis_factor, sum_by_node
from mipp.modules.copies import full_copy
from mipp.modules.weight_norm import effective, settle
from mipp.plan.budget import Budget
from mipp.plan.cost import Cost
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings

Structure = Literal["l1", "l2", "gate"]
Scores = Mapping[str, Tensor]


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Parameters of two or more dimensions by name; behind weight norm, what the layer computes with."""
    return {name: p for name, p in effective(model).items() if p.ndim > 1}


def node_scores(graph: PruningGraph, weights: Scores, structure: Structure) -> dict[str, Tensor]:
    """Scores of nodes from scores of single weights, by group, shape [size].

    Args:
        graph: The pruning graph.
        weights: A score for every weight, by name of the parameter.
        structure: "l1" and "l2" are norms over everything a node consists of. "gate" is the signed sum over the weights
            that read the node: for scores that are weight times gradient, the derivative by a factor on its activation.
    """
    return {name: _of_group(group, weights, structure) for name, group in graph.groups.items()}


def _of_group(group: NodeGroup, weights: Scores, structure: Structure) -> Tensor:
    if structure == "gate":
        return sum_by_node(group, weights, lambda part: part.sum(1), reads=True)
    if structure == "l2":
        return sum_by_node(group, weights, lambda part: part.square().sum(1), reads=None).sqrt()
    return sum_by_node(group, weights, lambda part: part.abs().sum(1), reads=None)


class InRounds:
    """A method that scores the nodes anew, round by round, while the network shrinks geometrically.

    Subclasses implement `scores`.
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        check_settings(self, rounds="[1, inf)")

    def scores(self, task: Task, model: nn.Module) -> Scores:
        """Score of every node by group, shape [size], from a copy of the model in which removed nodes are silent."""
        raise NotImplementedError

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Removes nodes round by round until the budget holds."""
        kept = select_in_rounds(self, task, budget, self.rounds, lambda model, _: self.scores(task, model))
        return task.plan(kept, self, budget)


def select_in_rounds(
    method: object,
    task: Task,
    budget: Budget,
    rounds: int,
    rank: Callable[[nn.Module, Mapping[str, Sequence[int]]], Scores],
) -> dict[str, tuple[int, ...]]:
    """The nodes to keep when scores are taken anew `rounds` times, while the network shrinks geometrically.

    Args:
        method: Who asks, for messages.
        task: The task.
        budget: What must hold in the end; after t of T rounds the fraction kept is its t/T-th power.
        rounds: T.
        rank: Scores of all nodes from a copy of the model in which the nodes removed so far are silent, and the nodes
            kept so far. Removed nodes stay last in rank; scores compete across groups.
    """
    require_target(method, budget)
    whole = {name: torch.zeros(group.size) for name, group in task.graph.groups.items()}
    select(task, whole, budget.without(budget.estimated), "global")  # a budget that cannot be met is refused at once
    kept: dict[str, tuple[int, ...]] = {name: tuple(range(group.size)) for name, group in task.graph.groups.items()}
    by_estimate = replace(task, measure=task.cost.estimate)
    for number in task.progress(range(1, rounds + 1), "rounds"):
        masked = full_copy(task.model)
        silence(masked, task.graph, kept)
        scores = _order_of_removal(rank(masked, kept), kept)
        if number < rounds:
            kept = select(by_estimate, scores, _on_the_way(budget, task.cost, number / rounds), "global")
    return select(task, scores, budget, "global")


@torch.no_grad()
def silence(model: nn.Module, graph: PruningGraph, kept: Mapping[str, Sequence[int]]) -> None:
    """Sets to zero, in place, all weights that produce or read nodes that are not kept."""
    weights = dict(model.named_parameters())
    for name, group in graph.groups.items():
        stays = torch.zeros(group.size)
        stays[list(kept[name])] = 1
        for s in group.slices:
            if s.tensor in weights:
                weights[s.tensor].mul_(axis_factor(s, stays, weights[s.tensor]))
    settle(model)


def fraction_kept(budget: Budget, cost: Cost) -> float:
    """The smallest fraction that any target of a budget keeps; 1 if none says."""
    sizes = dict(zip(cost.groups, cost.sizes.tolist(), strict=True))
    fractions = [limit / cost.dense(name) for name, limit in budget.limits(cost).items()]
    fractions += [max(width, 1) / sizes[name] for name, width in budget.widths.items()]
    return float(min([1.0, *fractions]))


def _on_the_way(budget: Budget, cost: Cost, share: float) -> Budget:
    """An eased budget in whole amounts and widths, rounded up, so that no round removes more than its share."""
    sizes = dict(zip(cost.groups, cost.sizes.tolist(), strict=True))
    eased = budget.ease(cost, share)
    limits = eased.without(eased.estimated).limits(cost)
    amounts: dict[str, Any] = {name: _whole(limit) for name, limit in limits.items()}
    widths = {name: _whole(sizes[name] * (width / sizes[name]) ** share) for name, width in budget.widths.items()}
    return replace(eased, **amounts, widths=widths)


def _whole(amount: float) -> int:
    return max(1, math.ceil(amount - 1e-9))


def _order_of_removal(scores: Scores, kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    low = min(float(values.min()) for values in scores.values())
    high = max(float(values.max()) for values in scores.values())
    found = {}
    for name, values in scores.items():
        found[name] = torch.full_like(values, low - ((high - low) or 1.0))
        keep = list(kept[name])
        found[name][keep] = values[keep]
    return found
