"""From a plan to the smaller network: cut, refitted, recovered; each step from the checkpoint where it is there."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

from mipp.errors import UnsupportedModelError
from mipp.methods import Task
from mipp.plan import Budget, PruningPlan
from mipp.refit.distillation import Distillation, distill
from mipp.refit.least_squares import Refit, refit
from mipp.report.measuring import Clock
from mipp.storage.checkpoint import Checkpoint
from mipp.surgery import apply

Recovery = Literal["distill"] | Distillation


def build(
    plan: PruningPlan,
    dense: nn.Module,
    task: Task,
    compensate: Refit | None,
    recover: Recovery | None,
    store: Checkpoint | None,
    lap: Clock,
) -> nn.Module:
    """The network that a plan leaves of the dense one, with what there is to say in the notes of the task.

    Args:
        plan: What stays.
        dense: With the weights that the plan is for.
        task: What the plan was made from.
        compensate: How to refit; None: not at all.
        recover: How to distil; None: not at all.
        store: Where steps are noted.
        lap: Told when a step is over.
    """
    small = apply(plan, dense)
    if compensate is not None:
        small = _record_step(store, "compensated", small, task, partial(_refit, small, dense, plan, task, compensate))
        lap("compensation")
    if recover is not None:
        small = _record_step(store, "recovered", small, task, partial(_recover, small, dense, plan, task, recover))
        lap("recovery")
    return small


def _record_step(
    store: Checkpoint | None, step: str, small: nn.Module, task: Task, make: Callable[[], tuple[nn.Module, list[str]]]
) -> nn.Module:
    """The model after a step: from the checkpoint, else as `make` returns it with sentences for the report."""
    notes = store.fill(step, small) if store else None
    if notes is None:
        small, notes = make()
        if store:
            store.save_model(step, small, notes)
    task.notes.extend(notes)
    return small


def _refit(
    small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, options: Refit
) -> tuple[nn.Module, list[str]]:
    """Refits; where that cannot be done the model stays as cut and a note says why."""
    obstacle = task.graph.program.not_replayable
    if not obstacle:
        try:
            given = plan, task.graph, task.batches, options, task.progress, task.memory
            notes = refit(small, dense, *given, spare=_spare(plan, task) if options.allow_bias else 0.0)
        except UnsupportedModelError as error:
            obstacle = str(error)
        else:
            if all(bool(torch.isfinite(p).all()) for p in small.parameters()):
                return small, notes
            obstacle = "the refitted weights were not finite"
    return apply(plan, dense), [f"Nothing was refitted: {obstacle}."]


def _spare(plan: PruningPlan, task: Task) -> float:
    """Parameters that the budget allows besides those that stay."""
    limit = Budget(**plan.budget).limits(task.cost).get("params", math.inf)
    return limit - task.cost.value("params", task.cost.widths(plan.widths))


def _recover(
    small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, how: Recovery
) -> tuple[nn.Module, list[str]]:
    options = Distillation() if how == "distill" else how
    before, after = distill(small, dense, plan, task.graph, task.batches, options, task.seed, task.progress)
    return small, [f"Distillation took the held-out loss from {before:.4g} to {after:.4g}."]
