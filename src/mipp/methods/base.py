"""What every method gets, and what it must return."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mipp.calibration import Batch
from mipp.cost import Cost
from mipp.errors import MissingRequirementError
from mipp.graph.groups import PruningGraph
from mipp.memory import Memory
from mipp.plan import Budget, PruningPlan, allocate
from mipp.selection import Elimination


@dataclass(frozen=True)
class Task:
    """A model to prune and what there is to prune it with. Methods leave the model as it is.

    Attributes:
        model: The dense model.
        graph: Its pruning graph.
        cost: Its cost functions.
        batches: Calibration batches.
        loss_fn: `loss_fn(output, labels) -> scalar`, for methods that need it.
        train: `train(model, *, fraction=1.0, after_step=None)`, trains in place, for methods that need it.
        seed: Seed of everything random.
        latency: Measures the latency of the network with the given widths, in milliseconds.
        notes: Sentences for the report; methods may add to them.
        memory: What may be kept in memory.
        progress: Wraps an iterable to show its progress: `progress(items, "what", total)`.
    """

    model: nn.Module
    graph: PruningGraph
    cost: Cost
    batches: Sequence[Batch] = ()
    loss_fn: Callable[..., Tensor] | None = None
    train: Callable[..., None] | None = None
    seed: int = 0
    latency: Callable[[Mapping[str, int]], float] | None = None
    notes: list[str] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    progress: Callable[..., Any] = field(default=lambda items, what, total=None: items)

    def generator(self) -> torch.Generator:
        """A fresh generator seeded with the task's seed."""
        return torch.Generator().manual_seed(self.seed)

    def plan(self, kept: Mapping[str, Sequence[int]], method: object, budget: Budget) -> PruningPlan:
        """A plan for the task's model."""
        return PruningPlan.of(self.graph, self.model, kept, repr(method), **budget.to_dict())


class Method(Protocol):
    """Decides which nodes stay. Implementations are frozen dataclasses: their `repr` is the record."""

    def plan(self, task: Task, budget: Budget) -> PruningPlan | tuple[PruningPlan, dict[str, Tensor]]:
        """Returns a plan that meets the budget; with a state dict where the method changes weights."""


class OneShot:
    """A method that scores every node once; the widths follow from the scores.

    Subclasses implement `rank`. With `scope="local"` every group keeps the same fraction; with "global" scores compete
    across groups, a node costing a node.
    """

    scope: str = "local"

    def rank(self, task: Task) -> Mapping[str, Tensor]:
        """Score of every node by group, shape [size]; higher is kept."""
        raise NotImplementedError

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Removes the lowest scores until the budget holds."""
        if not budget.has_target:
            raise MissingRequirementError(f"{self!r} needs a budget; pass for example budget=mipp.Budget(macs=0.5).")
        eliminations = {name: _ranked(scores, self.scope) for name, scores in self.rank(task).items()}
        widths = allocate(eliminations, task.cost, budget, "node", task.latency).widths
        return task.plan({name: eliminations[name].kept(width) for name, width in widths.items()}, self, budget)


def _ranked(scores: Tensor, scope: str) -> Elimination:
    order = torch.argsort(scores, stable=True)
    step = scores[order].double().cpu() if scope == "global" else torch.arange(1, len(order) + 1).double() / len(order)
    step = step - min(float(step.min()), 0.0)
    loss = torch.cat([torch.zeros(1, dtype=torch.float64), step.cumsum(0)])
    return Elimination(tuple(order.tolist()), tuple(loss.tolist()))
