"""Pruning inside the `Trainer` of Lightning."""

from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel

import mipp
from mipp.errors import PlanMismatchError
from mipp.integrations.rounds import Rounds
from mipp.integrations.schedule import Schedule
from mipp.methods.base import Method


class LightningPruning(Callback):
    """Prunes the model of Lightning's `Trainer` while it is trained, along a schedule.

    The module and the optimisers that the trainer holds are changed in place, and averaged weights that its callbacks
    hold with them. Checkpoints have the plan so far.

    Attributes:
        rounds: The rounds so far: their plan and reports.
    """

    def __init__(
        self,
        schedule: Schedule,
        calibration: mipp.Calibration | Iterable[Any],
        method: Method | None = None,
        *,
        module: str = "",
        resume: str | Path | None = None,
        averages: Iterable[AveragedModel] = (),
        **options: Any,
    ) -> None:
        """Makes the callback.

        Args:
            schedule: When to prune, and to what.
            calibration: As for `mipp.prune`.
            method: As for `mipp.prune`.
            module: Name of the attribute of the `LightningModule` that is pruned, such as "net"; by default all of it,
                through its `forward`.
            resume: The checkpoint that `fit(ckpt_path=...)` goes on from: the dense module is cut to its widths first.
            averages: Averaged weights of that module, besides those that callbacks hold.
            options: Other options of `mipp.prune`.
        """
        super().__init__()
        self.rounds = Rounds(schedule, calibration, method, averages=averages, **options)
        self._module, self._resume = module, None if resume is None else Path(resume)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Cuts the module to the widths of the checkpoint to go on from."""
        if self._resume is None or stage != "fit":
            return
        try:
            state = torch.load(self._resume, map_location="cpu", weights_only=True)["callbacks"][self.state_key]
        except (OSError, EOFError, LookupError, TypeError, RuntimeError, ValueError, UnpicklingError) as error:
            raise PlanMismatchError(
                f"{self._resume} cannot be read ({type(error).__name__}); expected a checkpoint of a training with "
                "this callback."
            ) from error
        self.rounds.restore(self._part(pl_module), state, self._averages(trainer))
        self._resume = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Prunes after the step at which a round is due."""
        if self.rounds.schedule.unit == "steps":
            self._advance(trainer, pl_module, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prunes after the epoch at which a round is due."""
        if self.rounds.schedule.unit == "epochs":
            self._advance(trainer, pl_module, trainer.current_epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """The plan so far, for the checkpoint."""
        return self.rounds.state_dict()

    def _advance(self, trainer: Trainer, pl_module: LightningModule, count: int) -> None:
        self.rounds.advance(self._part(pl_module), trainer.optimizers, count, self._averages(trainer))

    def _part(self, module: nn.Module) -> nn.Module:
        return module.get_submodule(self._module)

    def _averages(self, trainer: Trainer) -> list[nn.Module]:
        """The averaged modules that callbacks of the trainer hold."""
        held = (value for callback in getattr(trainer, "callbacks", ()) for value in vars(callback).values())
        return [self._part(value.module) for value in held if isinstance(value, AveragedModel)]
