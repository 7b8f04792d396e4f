"""The user's training, run on copies: what methods that train share."""

from collections.abc import Callable

import torch
from torch import nn

from mipp.errors import CalibrationError, MissingRequirementError, UnsupportedModelError
from mipp.modules.copies import modes_kept
from mipp.plan.task import Task
from mipp.runtime.default_device import callers_default_device, own_default_device
from mipp.runtime.mistakes import reraise_own
from mipp.runtime.random_states import own_random_states


def train(task: Task, model: nn.Module, fraction: float, after_step: Callable[[], None] | None = None) -> int:
    """Trains a copy of the task's model in place, on random numbers of its own, and returns the number of steps.

    Args:
        task: The task.
        model: A copy.
        fraction: Of the whole training.
        after_step: Called after each step of the optimiser.

    Raises:
        MissingRequirementError: There is no training function, or it does not call `after_step`.
        UnsupportedModelError: The training raised; the cause is chained.
        CalibrationError: It left weights that are not finite.
    """
    if task.train is None:
        raise MissingRequirementError(
            "The method trains the network; pass train, which is called as train(model, fraction=..., after_step=...) "
            "and trains in place for that fraction of a whole training."
        )
    steps = [0]

    def count() -> None:
        steps[0] += 1
        if after_step is not None:
            with own_default_device():
                after_step()

    with modes_kept(model), own_random_states(task.seed), torch.enable_grad(), callers_default_device():
        try:
            task.train(model, fraction=fraction, after_step=count)
        except (Exception, SystemExit) as error:
            reraise_own(error)
            raise UnsupportedModelError(
                f"train(model, fraction={fraction:.3g}, after_step=...) raised {type(error).__name__}: {error}. Check "
                "that it trains a copy of the model on its own."
            ) from error
    _check(model, steps[0])
    return steps[0]


def _check(model: nn.Module, steps: int) -> None:
    if steps == 0:
        raise MissingRequirementError(
            "train did not call after_step, which the method needs after each step of the optimiser; call "
            "after_step() there."
        )
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise CalibrationError(f"Training made '{name}' NaN or infinite; lower its learning rate.")
