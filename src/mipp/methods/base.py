"""The interface of methods, what they need, and nodes chosen by their scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from mipp.errors import CalibrationError, MippError, MissingRequirementError, quote
from mipp.plan.allocation import Unit, allocate
from mipp.plan.budget import Budget
from mipp.plan.elimination import Elimination
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task

Scope = Literal["local", "global"]


@dataclass(frozen=True)
class Needs:
    """The requirements and costs of a method; `mipp methods` and the documentation are made from them.

    Attributes:
        data: Calibration samples; without them only their shape matters.
        labels: `loss_fn`, and labels in the batches.
        gradients: The model is differentiated.
        training: `train`.
        passes: Passes over the calibration data, or trainings.
        memory: What it holds besides the model.
        stage: The state of training the source applies it to.
        widths: Whether it finds the widths of the layers itself ("own") or cuts all by the same fraction ("equal").
        reweights: It returns weights of its own, to be trained or used as they are: `compensate=True` leaves them.
    """

    data: bool = True
    labels: bool = False
    gradients: bool = False
    training: bool = False
    passes: str = "1 forward"
    memory: str = "second moments of each layer's inputs"
    stage: Literal["initialisation", "trained", "any"] = "any"
    widths: Literal["own", "equal"] = "own"
    reweights: bool = False


class Method(Protocol):
    """Decides which nodes stay. Implementations are frozen dataclasses: their `repr` is the record.

    What a method needs is its class attribute `needs`; see `needs_of`.
    """

    def plan(self, task: Task, budget: Budget) -> PruningPlan | tuple[PruningPlan, dict[str, Tensor]]:
        """Returns a plan that meets the budget; with a state dict where the method changes weights."""


def needs_of(method: object) -> Needs:
    """The requirements of a method; by default it reads the data once, without labels."""
    needs = getattr(method, "needs", None)
    return needs if isinstance(needs, Needs) else Needs()


class OneShot:
    """A method that scores every node once; the widths follow from the scores.

    Subclasses implement `rank`. With `scope="local"` every group keeps the same fraction; with "global" scores compete
    across groups, a node costing a node.
    """

    scope: Scope = "local"

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        """Score of every node by group, shape [size]; higher is kept."""
        raise NotImplementedError

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Removes the lowest scores until the budget holds."""
        require_target(self, budget)
        scores = task.once(f"scores of {self!r}", lambda: self.rank(task))
        return task.plan(select(task, scores, budget, self.scope), self, budget)


def require_target(method: object, budget: Budget) -> None:
    """Raises MissingRequirementError if the budget says nothing of how small the network is to be."""
    if not budget.has_target:
        raise MissingRequirementError(f"{quote(method)} needs a budget; pass for example budget=mipp.Budget(macs=0.5).")


def select(task: Task, scores: Mapping[str, Tensor], budget: Budget, scope: Scope) -> dict[str, tuple[int, ...]]:
    """The nodes to keep by group: the highest scores, as many as the budget allows.

    Raises:
        CalibrationError: A score is no number.
        InfeasibleBudgetError: Even the smallest network the budget allows is too large.
    """
    for name, group in task.graph.groups.items():
        if name not in scores or scores[name].shape != (group.size,):
            found = list(scores[name].shape) if name in scores else "none"
            raise MippError(f"The scores of group '{name}' have shape {found}; expected [{group.size}], one a node.")
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise CalibrationError(
                f"The scores of group '{name}' hold NaN or infinite values. Check the weights, the scale of the inputs "
                "and, where the method takes one, the loss."
            )
    return select_by(task, _eliminations(scores, scope), budget)


def select_by(
    task: Task, eliminations: Mapping[str, Elimination], budget: Budget, unit: Unit = "node"
) -> dict[str, tuple[int, ...]]:
    """The nodes to keep by group, for given orders and losses of removal."""
    widths = allocate(eliminations, task.cost, budget, unit, task.measure).widths
    return {name: eliminations[name].kept(width) for name, width in widths.items()}


def _eliminations(scores: Mapping[str, Tensor], scope: Scope) -> dict[str, Elimination]:
    lowest = min((float(values.min()) for values in scores.values()), default=0.0)
    found = {}
    for name, values in scores.items():
        order = torch.argsort(values, stable=True)
        ranks = torch.arange(1, len(order) + 1, dtype=torch.float64) / len(order)
        step = ranks if scope == "local" else values[order].double().cpu() - min(lowest, 0.0)
        loss = torch.cat([torch.zeros(1, dtype=torch.float64), step.cumsum(0)])
        found[name] = Elimination(tuple(order.tolist()), tuple(loss.tolist()))
    return found
