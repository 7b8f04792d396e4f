"""What every method gets, and what it must return."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mipp.data.calibration import Batch
from mipp.errors import CalibrationError, MippError, MissingRequirementError
from mipp.graph.nodes import PruningGraph
from mipp.plan import Budget, PruningPlan, Unit, allocate
from mipp.plan.cost import Cost
from mipp.plan.elimination import Elimination
from mipp.runtime.tensor_store import Memory

Scope = Literal["local", "global"]
T = TypeVar("T")


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
        measured: What was computed for one budget and serves others, in memory; see `once`.
        finished: Steps of an interrupted run, JSON-able, by a key of the method's choice; what a method puts here is on
            disk at once when there is a checkpoint.
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
    measured: dict[str, tuple[Any, list[str]]] = field(default_factory=dict)
    finished: MutableMapping[str, Any] = field(default_factory=dict)

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """What `compute` returns, computed for the first budget that asks for this key; its notes are for each."""
        key = f"{key}, seed {self.seed}"
        if key not in self.measured:
            before = len(self.notes)
            found = compute()
            self.measured[key] = found, self.notes[before:]
            del self.notes[before:]
        found, notes = self.measured[key]
        self.notes.extend(note for note in notes if note not in self.notes)
        return found

    def generator(self) -> torch.Generator:
        """A fresh generator seeded with the task's seed."""
        return torch.Generator().manual_seed(self.seed)

    def plan(self, kept: Mapping[str, Sequence[int]], method: object, budget: Budget) -> PruningPlan:
        """A plan for the task's model."""
        return PruningPlan.of(self.graph, self.model, kept, repr(method), **budget.to_dict())


@dataclass(frozen=True)
class Needs:
    """What a method needs and costs; `mipp methods` and the documentation are made from it.

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
    """What a method needs; one that does not say reads the data once, without labels."""
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
        raise MissingRequirementError(f"{method!r} needs a budget; pass for example budget=mipp.Budget(macs=0.5).")


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
    widths = allocate(eliminations, task.cost, budget, unit, task.latency).widths
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
