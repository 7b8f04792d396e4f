"""Training and accuracy of classifiers: enough for the demo and the experiments, and no more."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mipp.data.augmentation import Moves, move_images
from mipp.errors import MippError
from mipp.modules.copies import modes_kept
from mipp.modules.placement import device_of
from mipp.zoo.data import ImageData

_TAUGHT, _TEMPERATURE = 0.9, 4.0


def fit(
    model: nn.Module,
    data: ImageData,
    *,
    epochs: float,
    learning_rate: float = 0.05,
    batch_size: int = 64,
    weight_decay: float = 5e-4,
    seed: int = 0,
    augment: Literal["crop-flip"] | None = None,
    autocast_bf16: bool = False,
    teacher: nn.Module | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    after_step: Callable[[], None] | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Train a classifier in place by SGD with Nesterov momentum 0.9 and a one-cycle learning rate.

    The learning rate rises linearly over the first 15 % of the steps and falls as a half cosine to zero. An epoch
    leaves out the last, incomplete batch.

    Args:
        model: maps images to logits; its training mode is restored afterwards.
        data: the images to train on.
        epochs: passes over the data; a fraction is allowed.
        learning_rate: the peak of the schedule.
        batch_size: images in a step.
        weight_decay: of all parameters.
        seed: of the order of the images and of their augmentation.
        augment: "crop-flip" shifts each image by up to an eighth of its height and mirrors half of them.
        autocast_bf16: compute the forward pass in bfloat16 where torch finds that safe.
        teacher: a network whose outputs count for nine tenths of the loss, softened at temperature 4 (knowledge
            distillation: Hinton, Vinyals & Dean, arXiv 1503.02531); evaluated as it is, on the model's device.
        progress: called as `progress(step, steps, loss)` after each step.
        after_step: called without arguments after each step of the optimiser.
        device: the model is moved there and stays there; None leaves it where it is.

    Raises:
        MippError: if the loss is not finite at the end.

    >>> from mipp.zoo import DigitsCNN, load
    >>> fit(DigitsCNN(), load("digits", "train"), epochs=0.1)
    """
    if device is not None:
        model.to(device)
    home = device_of(model) or torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, round(epochs * max(1, len(data) // batch_size)))
    optimiser = torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _one_cycle(step, steps))
    loss = torch.zeros(())
    with modes_kept(model):
        model.train()
        batches = islice(_endless(data.to(home), batch_size, generator), steps)
        for step, (images, labels) in enumerate(batches, start=1):
            inputs = (
                images if augment is None else move_images(images, Moves.draw(len(images), images.shape[2:], generator))
            )
            with torch.autocast(home.type, dtype=torch.bfloat16, enabled=autocast_bf16):
                logits = model(inputs)
                loss = F.cross_entropy(logits, labels)
                if teacher is not None:
                    loss = (1 - _TAUGHT) * loss + _TAUGHT * _divergence(teacher, inputs, logits)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if after_step is not None:
                after_step()
            if progress is not None:
                progress(step, steps, loss.item())
    if not torch.isfinite(loss):
        raise MippError(f"the loss is {loss.item()} after {steps:,} steps; expected a finite one; lower learning_rate")


@torch.inference_mode()
def accuracy(model: nn.Module, data: ImageData, batch_size: int = 512, limit: int | None = None, top: int = 1) -> float:
    """Return the percentage of images whose label is among the `top` largest logits.

    Args:
        model: maps images to logits; evaluated where it is, in evaluation mode; its training mode is restored.
        data: the images to test on.
        batch_size: images in a forward pass.
        limit: use the first `limit` images only; None uses all.
        top: how many guesses a network has.
    """
    home = device_of(model) or torch.device("cpu")
    correct = total = 0
    with modes_kept(model):
        model.eval()
        for images, labels in data.batches(batch_size, limit=limit):
            guesses = model(images.to(home)).topk(top, dim=1).indices
            correct += int((guesses == labels.to(home)[:, None]).sum())
            total += len(labels)
    return 100 * correct / total


def _divergence(teacher: nn.Module, inputs: Tensor, logits: Tensor) -> Tensor:
    """From the outputs of a teacher, both softened, on the scale of the cross-entropy."""
    with torch.no_grad():
        soft = (teacher(inputs).float() / _TEMPERATURE).log_softmax(1)
    found = (logits.float() / _TEMPERATURE).log_softmax(1)
    return F.kl_div(found, soft, reduction="batchmean", log_target=True) * _TEMPERATURE**2


def _one_cycle(step: int, steps: int) -> float:
    return min((step + 1) / (0.15 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))


def _endless(data: ImageData, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    size = min(batch_size, len(data))
    while True:
        yield from data.batches(size, limit=len(data) // size * size, generator=generator)
