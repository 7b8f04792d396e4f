"""Only train once: groups are driven to zero while the network is trained.

Sources: Chen et al., OTOv2: Automatic, Generic, User-Friendly, ICLR 2023, arXiv 2303.06862 (dual half-space projected
gradient); Chen et al., HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and Pruning,
arXiv 2409.09085 (hybrid efficient structured sparse optimiser).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mipp.methods.base import Needs, Scope, require_target, select
from mipp.methods.common.slices import axis_factor, weights_by_node
from mipp.methods.common.training import train
from mipp.modules.copies import full_copy, state_of
from mipp.modules.weight_norm import lengths_of
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings
from mipp.surgery.cut import apply
from mipp.surgery.proof import distance, outputs, rounding

_MOST_PRESSURE, _MOST_SHARE = 10.0, 10.0
_LOST = 1e-3
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class OTO:
    """Trains the network and, meanwhile, drives the nodes it will not keep to zero, so that cutting them costs little.

    It costs nothing where a node at zero says nothing to the next layer; the report tells how much it costs elsewhere.

    Attributes:
        variant: "dhspg" shrinks the redundant nodes by a constant amount a step, more where the loss resists, and
            projects those that turn away onto zero; "hesso" shrinks them linearly.
        start: Fraction of the training before the redundant nodes are chosen.
        ramp: Fraction of the rest of the training over which they go to zero.
        half_space: A node goes to zero when a step leaves less than this part of it in its old direction.
        scope: "global" compares scores across groups; "local" keeps the same fraction of every group.
    """

    variant: Literal["dhspg", "hesso"] = "dhspg"
    start: float = 0.1
    ramp: float = 0.5
    half_space: float = 0.0
    scope: Scope = "global"
    needs: ClassVar[Needs] = Needs(
        data=False,
        gradients=True,
        training=True,
        passes="1 training",
        memory="two copies of the weights",
        reweights=True,
    )

    def __post_init__(self) -> None:
        check_settings(self, start="(0, 1)", ramp="(0, 1]", half_space="[0, 1)")

    def plan(self, task: Task, budget: Budget) -> tuple[PruningPlan, dict[str, Tensor]]:
        """Trains until the budget holds; returns the trained weights of the whole network with the plan."""
        require_target(self, budget)
        model = full_copy(task.model)
        gradient = _Gradient(model)
        steps = train(task, model, self.start, gradient.note)
        score = _dhspg_scores if self.variant == "dhspg" else _hesso_scores
        kept = select(task, score(task, _copies(model), gradient.estimate()), budget, self.scope)
        left = max(1, round(steps * (1 - self.start) / self.start * self.ramp))
        train(task, model, 1 - self.start, _Shrinking(task, model, kept, self, left).step)
        plan = task.plan(kept, self, budget)
        _note_cost(task, plan, model)
        return plan, state_of(model)


def _note_cost(task: Task, plan: PruningPlan, model: nn.Module) -> None:
    """Says in the report how much cutting changes the outputs, if it does."""
    call = task.batches[0].call
    whole = outputs(model, call, None)  # in its own precision: not every model runs in another
    lost = distance(outputs(apply(plan, model), call, None), whole)
    if lost > max(_LOST, rounding(whole)):
        task.notes.append(
            f"Cutting what OTO drove to zero changes the outputs by up to {lost:.2g} of their size: the training ended "
            "before all was zero, or zero is not silence there (activations such as sigmoid, layer norms, tied "
            "weights). compensate=True refits what is left."
        )


class _Gradient:
    """The gradient of the last step; where the training leaves none, the way that the weights came stands in for it."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._start = model, _copies(model)
        self._last: Weights = {}

    def note(self) -> None:
        """Called after each step of the optimiser."""
        self._last = {name: p.grad.detach().clone() for name, p in _parameters(self._model) if p.grad is not None}

    def estimate(self) -> Weights:
        """By name of the parameter."""
        way = {name: self._start[name] - weight for name, weight in _copies(self._model).items()}
        return way | (self._last if any(bool(g.any()) for g in self._last.values()) else {})


class _Shrinking:
    """Drives the nodes that are not kept to zero, step by step."""

    def __init__(
        self, task: Task, model: nn.Module, kept: Mapping[str, tuple[int, ...]], rule: OTO, steps: int
    ) -> None:
        self.task, self.model, self.rule, self.left = task, model, rule, steps
        self.before = _copies(model)
        self.redundant = {n: torch.ones(g.size, dtype=torch.bool) for n, g in task.graph.groups.items()}
        for name, nodes in kept.items():
            self.redundant[name][list(nodes)] = False
        self.amount = {n: norm / steps for n, norm in _norms(task, self.before).items()}
        self.pressure = {n: torch.ones_like(amount) for n, amount in self.amount.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Called after each step of the optimiser."""
        for name in self.redundant:
            if self.rule.variant == "hesso":
                self._scale(name, self._all_but(name, torch.tensor((self.left - 1) / self.left)))
            else:
                self._penalise(name)
        self.left = max(self.left - 1, 1)
        self.before = _copies(self.model)

    def _penalise(self, name: str) -> None:
        """One penalty step and half-space projection of one group."""
        norm = _inner(self.task, name, self.before, self.before).sqrt()
        resists = _inner(self.task, name, self.before, _weights(self.model)) > norm.square()
        doubled = (2 * self.pressure[name]).clamp_max(_MOST_PRESSURE)
        self.pressure[name] = torch.where(resists, doubled, torch.ones_like(doubled))
        share = self.pressure[name] * self.amount[name] / norm.clamp_min(1e-300)
        share = share.clamp_max(_MOST_SHARE)  # finite where the norm is zero, so that zero weights stay zero
        self._subtract(name, torch.where(self.redundant[name], share, torch.zeros_like(share)))
        stays = half_space(
            norm.square(), _inner(self.task, name, self.before, _weights(self.model)), self.rule.half_space
        )
        self._scale(name, self._all_but(name, stays.double()))

    def _all_but(self, name: str, factor: Tensor) -> Tensor:
        """The factor for redundant nodes, 1 for the others."""
        return torch.where(self.redundant[name], factor.double(), torch.ones((), dtype=torch.float64))

    def _scale(self, name: str, factors: Tensor) -> None:
        weights = _weights(self.model)
        for s in self.task.graph.groups[name].slices:
            if not s.reads and s.tensor in weights:
                weights[s.tensor].mul_(axis_factor(s, factors, weights[s.tensor]))

    def _subtract(self, name: str, shares: Tensor) -> None:
        """Takes from the weights of each node this share of what they were before the step."""
        weights = _weights(self.model)
        for s in self.task.graph.groups[name].slices:
            if not s.reads and s.tensor in weights:
                share = 1 - axis_factor(s, 1 - shares, weights[s.tensor])  # 0 for entries that belong to no node
                weights[s.tensor].sub_(share * self.before[s.tensor])


def half_space(square: Tensor, inner: Tensor, least: float) -> Tensor:
    """True for nodes x that stay after a step to x': <x', x> > least |x|²; the others are projected onto zero.

    Args:
        square: |x|² of every node, shape [nodes].
        inner: <x', x> of every node, shape [nodes].
        least: In [0, 1).
    """
    return inner > least * square


def _dhspg_scores(task: Task, weights: Weights, gradient: Weights) -> dict[str, Tensor]:
    """Minus the redundancy: half the cosine of weights and gradient, half the inverse mean norm; each of norm 1."""
    cosine = _unit_norm(_cosine(task, weights, gradient))
    small = _unit_norm({n: 1 / size.clamp_min(1e-12) for n, size in _mean_norms(task, weights).items()})
    return {name: -0.5 * (cosine[name] + small[name]) for name in cosine}


def _hesso_scores(task: Task, weights: Weights, gradient: Weights) -> dict[str, Tensor]:
    """The mean of five importances, each of norm 1 over the network."""
    first = {name: _inner(task, name, weights, gradient).abs() for name in task.graph.groups}
    second = {name: 0.5 * value.square() for name, value in first.items()}
    against = {name: 1 - value for name, value in _cosine(task, weights, gradient).items()}
    found = [_unit_norm(s) for s in (_norms(task, weights), _mean_norms(task, weights), against, first, second)]
    return {name: torch.stack([scores[name] for scores in found]).mean(0) for name in first}


def _cosine(task: Task, weights: Weights, gradient: Weights) -> dict[str, Tensor]:
    """Cosine between the weights that produce each node and their gradient."""
    found = {}
    for name in task.graph.groups:
        sizes = _inner(task, name, weights, weights) * _inner(task, name, gradient, gradient)
        found[name] = _inner(task, name, weights, gradient) / sizes.sqrt().clamp_min(1e-300)
    return found


def _inner(task: Task, name: str, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    group = task.graph.groups[name]
    total = torch.zeros(group.size, dtype=torch.float64)
    for a, b in zip(weights_by_node(group, left, reads=False), weights_by_node(group, right, reads=False), strict=True):
        total += (a * b).sum(1)
    return total


def _norms(task: Task, weights: Weights) -> dict[str, Tensor]:
    return {name: _inner(task, name, weights, weights).sqrt() for name in task.graph.groups}


def _mean_norms(task: Task, weights: Weights) -> dict[str, Tensor]:
    ones = {name: torch.ones_like(weight) for name, weight in weights.items()}
    sizes = {name: _inner(task, name, ones, ones).clamp_min(1) for name in task.graph.groups}
    return {name: norm / sizes[name] for name, norm in _norms(task, weights).items()}


def _unit_norm(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    norm = math.sqrt(sum(float(s.square().sum()) for s in scores.values()))
    return {name: s / max(norm, 1e-300) for name, s in scores.items()}


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Without the directions of weight norm: a node goes to zero by its length."""
    directions = lengths_of(model)
    return [(n, p) for n, p in model.named_parameters() if p.is_floating_point() and n not in directions]


def _weights(model: nn.Module) -> Weights:
    return dict(_parameters(model))


def _copies(model: nn.Module) -> Weights:
    return {name: p.detach().clone() for name, p in _weights(model).items()}
