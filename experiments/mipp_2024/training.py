"""Training of classifiers on one device or several, that goes on where it was killed."""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from experiments.mipp_2024.epochs import Augmentation, Batch, Data, Epoch
from experiments.mipp_2024.setting import Bar, Setting
from lightning.fabric import Fabric
from torch import nn

from mipp.errors import MippError
from mipp.grid.workload import digest


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum 0.9 on the cross-entropy; a `mipp.grid.Trainer`.

    Attributes:
        epochs: Passes over the data; an epoch leaves out the last, incomplete batch; 0: no training.
        batch_size: Images in a step, of all processes together.
        learning_rate: The first one; without milestones the largest.
        milestones: Epochs after which the learning rate falls to a tenth. Without any it rises linearly over the first
            15 % of the steps and falls as a half cosine to zero.
        weight_decay: Of all parameters.
        nesterov: Whether the momentum is Nesterov's.
        augment: What is done to the images, of "crop" (shifts by up to an eighth; for ImageNet crops of random size
            and shape), "flip", "cutout" and "mixup".
        hole: Side of the hole that cutout makes, in pixels.
        precision: "bf16-mixed": the forward pass is computed in bfloat16 where torch finds that safe.
        setting: Where it runs; the result does not depend on it.
    """

    epochs: float = 0
    batch_size: int = 128
    learning_rate: float = 0.1
    milestones: tuple[int, ...] = ()
    weight_decay: float = 5e-4
    nesterov: bool = False
    augment: tuple[Augmentation, ...] = ()
    hole: int = 8
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    setting: Setting = field(default=Setting(), compare=False)

    def options(self) -> dict[str, Any]:
        """The settings that the result depends on, as plain data."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.compare}

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.milestones:
            return self.learning_rate * 0.1 ** sum(step * self.epochs >= mark * steps for mark in self.milestones)
        return self.learning_rate * min((step + 1) / (0.15 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))

    def __call__(
        self,
        model: nn.Module,
        data: Data,
        seed: int,
        *,
        fraction: float = 1.0,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        """Trains in place, on the device of the model, or with torchrun on one of that kind for each process.

        A checkpoint is named by all that the result depends on, the weights before training included, and removed at
        the end. With `after_step`, whose state nobody could restore, there is none.

        Args:
            model: Maps images to logits.
            data: The images to train on.
            seed: Of their order and augmentation.
            fraction: Of the epochs; milestones move with it.
            after_step: Called after each step of the optimiser.

        Raises:
            MippError: The loss is not finite at the end of an epoch.
        """
        if not self.epochs:
            return
        fabric = self.setting.fabric(next(model.parameters()).device, bf16=self.precision == "bf16-mixed")
        checkpoint = None if after_step else _checkpoint(self, model, data, seed, fraction)
        with self.setting.switches(), _on(fabric.device, model, bf16=self.precision == "bf16-mixed"):
            _Run(self, fabric, model, data.to(fabric.device), seed, fraction, checkpoint).go(after_step)


class _Run:
    """One training."""

    def __init__(
        self,
        recipe: Recipe,
        fabric: Fabric,
        model: nn.Module,
        data: Data,
        seed: int,
        fraction: float,
        checkpoint: Path | None,
    ) -> None:
        self.recipe, self.fabric, self.data, self.seed, self.checkpoint = recipe, fabric, data, seed, checkpoint
        self.batch_size = min(recipe.batch_size, len(data))
        self.per_epoch = len(data) // self.batch_size
        self.steps = max(1, round(recipe.epochs * fraction * self.per_epoch))
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=recipe.learning_rate,
            momentum=0.9,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=fabric.device.type == "cuda",
        )
        self.model, self.optimiser = fabric.setup(model, optimiser, move_to_device=False)
        self.loss = torch.zeros((), device=fabric.device)  # summed over the epoch, and read once: reading waits

    def go(self, after_step: Callable[[], None] | None) -> None:
        step = self._resumed()
        shown = self.recipe.setting.progress and self.fabric.is_global_zero
        with Bar(self.steps * self.batch_size, step * self.batch_size, shown=shown) as bar:
            for batch in self._batches(step):
                self._step(batch, self.recipe.rate(step, self.steps))
                step += 1
                if after_step is not None:
                    after_step()
                bar.advance(self.batch_size)
                if step % self.per_epoch == 0 or step == self.steps:
                    bar.tell(self._close(step))
                if step % self.recipe.setting.every == 0 and step < self.steps:
                    self._save(step)
        for logger in self.fabric.loggers:
            logger.finalize("success")
        if self.checkpoint is not None and self.fabric.is_global_zero:
            self.checkpoint.unlink(missing_ok=True)

    def _batches(self, step: int) -> Iterator[Batch]:
        """The batches of all steps that are left."""
        fabric, recipe = self.fabric, self.recipe
        while step < self.steps:
            number, first = divmod(step, self.per_epoch)
            epoch = Epoch.draw(len(self.data), self.batch_size, self.seed, number)
            last = min(self.per_epoch, first + self.steps - step)
            yield from epoch.batches(
                self.data,
                recipe.augment,
                recipe.hole,
                fabric.device,
                steps=range(first, last),
                rank=fabric.global_rank,
                processes=fabric.world_size,
            )
            step += last - first

    def _step(self, batch: Batch, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        logits = self.model(batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        if batch.partners is not None:
            loss = batch.share * loss + (1 - batch.share) * F.cross_entropy(logits, batch.partners)
        if self.fabric.world_size > 1:  # whose gradients are averaged, however many images each process has
            loss = loss * (len(batch.images) * self.fabric.world_size / self.batch_size)
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        self.optimiser.step()
        self.loss += loss.detach()

    def _close(self, step: int) -> float:
        """Ends an epoch; returns its mean loss."""
        steps = (step - 1) % self.per_epoch + 1
        loss = torch.as_tensor(self.fabric.all_reduce(self.loss / steps)).item()
        self.loss.zero_()
        self.fabric.log_dict({"loss": loss, "learning rate": self.optimiser.param_groups[0]["lr"]}, step)
        if not math.isfinite(loss):
            raise MippError(f"the loss is {loss} after {step:,} steps; expected a finite one; lower learning_rate")
        return loss

    def _resumed(self) -> int:
        """The step at which the training was interrupted; 0 if it was not."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        state = {"model": self.model, "optimiser": self.optimiser, "loss": self.loss}
        rest = self.fabric.load(self.checkpoint, state, weights_only=True)
        self.loss = state["loss"].to(self.fabric.device)
        return int(rest["step"])

    def _save(self, step: int) -> None:
        if self.checkpoint is None:
            return
        part = self.checkpoint.with_suffix(".part")
        self.fabric.save(part, {"model": self.model, "optimiser": self.optimiser, "loss": self.loss, "step": step})
        if self.fabric.is_global_zero:
            part.replace(self.checkpoint)


def _checkpoint(recipe: Recipe, model: nn.Module, data: Data, seed: int, fraction: float) -> Path | None:
    """The file of this training, or None if its setting has no folder."""
    folder = recipe.setting.checkpoints
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    content = hashlib.sha256()
    for name, tensor in {**model.state_dict(), "labels of the images": data.labels}.items():
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    names = {"data": [data.name, data.split], "seed": seed, "fraction": fraction, "content": content.hexdigest()}
    return folder / f"training-{digest({**recipe.options(), **names})}.ckpt"


@contextmanager
def _on(device: torch.device, model: nn.Module, *, bf16: bool) -> Iterator[None]:
    """The model in training mode on a device, in the memory format that is fastest there; afterwards as it was."""
    home = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    fastest = torch.channels_last if device.type == "cuda" or bf16 else torch.contiguous_format
    model.to(device, memory_format=fastest).train()
    try:
        yield
    finally:
        model.to(home, memory_format=torch.contiguous_format)
        for module, training in modes.items():
            module.training = training
