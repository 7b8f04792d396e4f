"""The input of every method: a model to prune, its calibration data, and the functions of the caller."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mipp.data.calibration import Batch
from mipp.graph.nodes import PruningGraph
from mipp.plan.budget import Budget
from mipp.plan.cost import Cost
from mipp.plan.effort import DEFAULT, Effort
from mipp.plan.plan import PruningPlan
from mipp.runtime.distributed import place
from mipp.runtime.progress import Progress, silent
from mipp.runtime.record import Notes, Results
from mipp.runtime.tensor_store import Memory

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
        measure: Measures a constraint of the network with the given widths: `measure("latency_ms", widths)`.
        notes: Collects sentences for the report; methods may add to them.
        memory: What may be kept in memory.
        progress: Wraps an iterable to show its progress: `progress(items, "what", total)`.
        runtime: Where latency is measured, as in `Budget`.
        noise: Difference between two passes of the model over the same batch, relative to its outputs.
        measured: Results for one budget that serve others; see `once`.
        finished: Results of an interrupted run; see `step`.
        effort: Numbers that the method and the refit take where their own settings say none.
    """

    model: nn.Module
    graph: PruningGraph
    cost: Cost
    batches: Sequence[Batch] = ()
    loss_fn: Callable[..., Tensor] | None = None
    train: Callable[..., None] | None = None
    seed: int = 0
    measure: Callable[[str, Mapping[str, int]], float] | None = None
    notes: Notes = field(default_factory=Notes)
    memory: Memory = field(default_factory=Memory)
    progress: Progress = silent
    runtime: str = "torch"
    noise: float = 0.0
    measured: Results = field(default_factory=Results)
    finished: MutableMapping[str, Any] = field(default_factory=dict)
    effort: Effort = DEFAULT

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """Returns what `compute` returned for the first budget that asked for this key; its notes are for each."""
        return self.measured.once(f"{key}, seed {self.seed}", compute, self.notes)

    def place(self) -> tuple[int, int]:
        """Number of this process's first sample among those of all, and how many these are; asks the others."""
        return place(sum(batch.samples for batch in self.batches))

    def step(self, key: str, compute: Callable[[], T]) -> T:
        """Returns what an interrupted run noted under this key; else what `compute` returns, JSON-able, noted at once.

        It is on disk when there is a checkpoint.
        """
        if key not in self.finished:
            self.finished[key] = compute()
        found: T = self.finished[key]
        return found

    def generator(self) -> torch.Generator:
        """A fresh generator seeded with the task's seed."""
        return torch.Generator().manual_seed(self.seed)

    def plan(self, kept: Mapping[str, Sequence[int]], method: object, budget: Budget) -> PruningPlan:
        """A plan for the task's model."""
        return PruningPlan.of(self.graph, self.model, kept, repr(method), **budget.to_dict())
