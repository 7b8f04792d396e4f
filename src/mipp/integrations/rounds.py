"""Rounds of pruning inside a training, in place: model, optimisers and averages stay the objects that they are."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

import mipp
from mipp.errors import MippError, PlanMismatchError
from mipp.integrations.optimizers import carry_over_in_place
from mipp.integrations.schedule import Schedule
from mipp.methods.base import Method
from mipp.modules.adoption import adopt
from mipp.plan.plan import shapes
from mipp.plan.registry import CONSTRAINTS
from mipp.report import Report
from mipp.runtime.typed import FormError, as_type
from mipp.surgery.huggingface import update_config


class Rounds:
    """Prunes a model that is being trained, round by round along a schedule.

    The model, its modules and the optimisers stay the same objects, so that schedulers, a `GradScaler`, loggers and
    trainers that hold them go on; parameters are new, and the optimisers' state is cut with them.

    >>> rounds = Rounds(mipp.Schedule(macs=[0.9, 0.75, 0.5], every=500), calibration)
    >>> rounds.advance(model, [optimizer], step)  # after every step of the optimiser

    Attributes:
        plan: What all rounds so far removed, as one plan for the first model; None before the first round.
        reports: The reports of the rounds.
    """

    def __init__(
        self,
        schedule: Schedule,
        calibration: mipp.Calibration | Iterable[Any],
        method: Method | None = None,
        *,
        averages: Iterable[AveragedModel] = (),
        **options: Any,
    ) -> None:
        """Makes the rounds of one training.

        Args:
            schedule: When to prune, and to what.
            calibration: As for `mipp.prune`; read in every round, so a generator will not do.
            method: As for `mipp.prune`.
            averages: Averaged weights (EMA, SWA) of the model; they are cut with it, and not refitted.
            options: Other options of `mipp.prune`, such as `exclude`.
        """
        self.schedule, self.calibration, self.method = schedule, calibration, method
        self.averages, self.options = tuple(averages), {"progress": False, **options}
        self.plan: mipp.PruningPlan | None = None
        self.reports: list[Report] = []
        self._done = 0
        self._reached: dict[str, float] = {}

    def advance(
        self, model: nn.Module, optimizers: Iterable[Optimizer], count: int, averages: Iterable[nn.Module] = ()
    ) -> mipp.Result | None:
        """Prunes the model in place if a round is due; call it between steps, since gradients are dropped.

        Args:
            model: What is trained.
            optimizers: Of its parameters; they may hold others, too.
            count: Steps of the optimiser, or epochs, so far.
            averages: More copies of the model to be cut with it, such as the `module` of an `AveragedModel`.

        Returns:
            The result, whose model shares its parameters with `model`; None if no round is due.

        Raises:
            MippError: Several processes train the model, or it cannot be pruned; see `mipp.prune`.
        """
        if not self.schedule.is_due(self._done, count):
            return None
        _check_alone()
        budget = self.schedule.budget(self._done, self._reached)
        with _own_forward(model):
            result = mipp.prune(model, self.calibration, budget, self.method, **self.options)
        plan = result.plan if self.plan is None else self.plan.then(result.plan)
        for average in (*(a.module for a in self.averages), *averages):
            adopt(average, mipp.apply(result.plan, average), result.plan.attributes)
        for optimizer in optimizers:
            carry_over_in_place(getattr(optimizer, "optimizer", optimizer), model, result)
        result.model.zero_grad(set_to_none=True)  # those of the dense model that a copy still has
        adopt(model, result.model, result.plan.attributes)
        self.plan, self._done = plan, self._done + 1
        self.reports.append(result.report)
        for name, share in _shares(result.report).items():
            self._reached[name] = self._reached.get(name, 1.0) * share
        return result

    def state_dict(self) -> dict[str, Any]:
        """The state of the rounds as plain data, for a checkpoint of the training."""
        return {
            "done": self._done,
            "reached": dict(self._reached),
            "plan": None if self.plan is None else self.plan.to_dict(),
        }

    def restore(self, model: nn.Module, state: Mapping[str, Any], averages: Iterable[nn.Module] = ()) -> None:
        """Cuts a dense model, in place, to the widths of a checkpoint; its weights are to be loaded afterwards.

        Args:
            model: As the training began with.
            state: From `state_dict`.
            averages: As for `advance`.

        Raises:
            PlanMismatchError: The state is damaged, or of another model.
        """
        try:
            found: _State = as_type(_State, state)
        except FormError as error:
            raise PlanMismatchError(
                f"The state of a pruned training is damaged ({error}); expected what state_dict() returned."
            ) from error
        self.plan = None if found.plan is None else mipp.PruningPlan.from_dict(found.plan)
        if self.plan is not None:
            small = mipp.apply(self.plan, model)
            update_config(small, self.plan)
            for average in (*(a.module for a in self.averages), *averages):
                if shapes(average) != shapes(small):
                    adopt(average, mipp.apply(self.plan, average), self.plan.attributes)
            adopt(model, small, self.plan.attributes)
        self._done, self._reached = found.done, found.reached


@dataclass(frozen=True)
class _State:
    """The state of rounds in a checkpoint."""

    done: int
    reached: dict[str, float]
    plan: dict[str, object] | None


def _shares(report: Report) -> dict[str, float]:
    """Fractions that a round left, by name of the constraint."""
    pairs = {name: (getattr(report.before, name), getattr(report.after, name)) for name in CONSTRAINTS}
    return {name: after / before for name, (before, after) in pairs.items() if before and after is not None}


def _check_alone() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise MippError(
            f"{distributed.get_world_size()} processes train the model, and their wrapper holds the parameters that "
            "pruning replaces. Train in one process, or prune between two trainings."
        )


@contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Takes off, for the block, a `forward` that mixed precision put around the model's own."""
    names = ("forward", "_original_forward") if "_original_forward" in vars(model) else ()
    wrapped = {name: vars(model).pop(name) for name in names if name in vars(model)}
    try:
        yield
    finally:
        vars(model).update(wrapped)
