"""Pruning inside `transformers.Trainer`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

import mipp
from mipp.errors import MippError, PlanMismatchError
from mipp.integrations.rounds import Rounds
from mipp.integrations.schedule import Schedule
from mipp.methods.base import Method
from mipp.runtime.typed import FormError, read_json
from mipp.storage.places import PLAN

ROUNDS = "rounds.json"


class TrainerPruning(TrainerCallback):
    """Prunes the model of a `transformers.Trainer` while it is trained, along a schedule.

    The model and the optimiser that the trainer holds are changed in place. Every checkpoint has the plan so far beside
    its weights, so that `mipp.load(checkpoint, make_dense_model)` reads it.

    Attributes:
        rounds: The rounds so far: their plan and reports.
    """

    def __init__(
        self,
        schedule: Schedule,
        calibration: mipp.Calibration | Iterable[Any],
        method: Method | None = None,
        *,
        resume: str | Path | None = None,
        averages: Iterable[AveragedModel] = (),
        **options: Any,
    ) -> None:
        """Makes the callback; pass it to the constructor of the trainer.

        Args:
            schedule: When to prune, and to what.
            calibration: As for `mipp.prune`: batches of keyword arguments, without labels.
            method: As for `mipp.prune`.
            resume: A checkpoint of an earlier run that `train(resume_from_checkpoint=...)` goes on from: the dense
                model is cut to its widths first.
            averages: Averaged weights to be cut with the model.
            options: Other options of `mipp.prune`.
        """
        self.rounds = Rounds(schedule, calibration, method, averages=averages, **options)
        self._resume = None if resume is None else Path(resume)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Cuts the model to the widths of the checkpoint to go on from."""
        if args.load_best_model_at_end:
            raise MippError(
                "load_best_model_at_end=True would load weights of an earlier round into the model of the last one, "
                "which is smaller. Leave it out; each checkpoint is read by mipp.load."
            )
        if self._resume is not None:
            path = self._resume / ROUNDS
            try:
                found = read_json(path)
            except (OSError, FormError) as error:
                raise PlanMismatchError(
                    f"{path} cannot be read ({type(error).__name__}); expected a checkpoint of a training with this "
                    "callback."
                ) from error
            self.rounds.restore(kwargs["model"], found)
            self._resume = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuses a checkpoint that could not be read in time."""
        if self._resume is not None:
            raise MippError(
                "The callback was added to a trainer that existed already, so the model is not cut to the widths of "
                f"{self._resume}. Pass it to the constructor: Trainer(..., callbacks=[...])."
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Prunes after the step at which a round is due."""
        if self.rounds.schedule.unit == "steps":
            self._advance(state.global_step, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prunes after the epoch at which a round is due."""
        if self.rounds.schedule.unit == "epochs":
            self._advance(round(state.epoch or 0), **kwargs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes the plan so far into the checkpoint."""
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        (folder / ROUNDS).write_text(json.dumps(self.rounds.state_dict()), encoding="utf-8")
        if self.rounds.plan is not None:
            (folder / PLAN).write_text(self.rounds.plan.to_json(), encoding="utf-8")

    def _advance(self, count: int, model: nn.Module, optimizer: Optimizer, **_: Any) -> None:
        self.rounds.advance(model, [optimizer], count)
