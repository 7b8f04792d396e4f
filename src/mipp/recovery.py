"""Label-free recovery: a short distillation from the dense model on the calibration data."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mipp.calibration import Batch
from mipp.errors import CalibrationError
from mipp.graph.cells import differentiable_recurrence
from mipp.graph.copies import modes_kept, working_copy
from mipp.graph.trace import forward
from mipp.graph.trees import tensors_in
from mipp.memory import Shelf, Stored, TensorStore
from mipp.progress import Progress, silent


@dataclass(frozen=True)
class Distillation:
    """How long and how fast to distil.

    Attributes:
        seconds: Stops training after this time.
        epochs: Stops after this many passes over the calibration data.
        learning_rate: Peak learning rate of Adam; falls to zero along a cosine over the epochs.
        patience: Stops after this many passes without a better held-out loss.
    """

    seconds: float = 60.0
    epochs: int = 30
    learning_rate: float = 3e-4
    patience: int = 5


def distill(
    small: nn.Module,
    dense: nn.Module,
    batches: Sequence[Batch],
    options: Distillation | None = None,
    seed: int = 0,
    store: TensorStore | None = None,
    progress: Progress = silent,
) -> tuple[float, float]:
    """Trains `small` in place to say what `dense` says, and keeps the weights that do so best on held-out batches.

    The loss is KL(dense || small) for outputs of shape [samples, classes], else the squared error relative to the dense
    output's. Batch norm stays in eval mode; nothing with `requires_grad=False` changes. Where no pass improves on the
    weights it began with, these stay.

    Args:
        small: The pruned model.
        dense: The model it was cut from.
        batches: Unlabelled calibration batches; every eighth (at least one) is held out.
        options: How long and how fast.
        seed: Seed of the order of the batches.
        store: Where the dense outputs are kept; by default in memory.
        progress: Wraps the passes to show how far the distillation is.

    Returns:
        The held-out loss before and after.

    Raises:
        CalibrationError: There are fewer than two batches.
    """
    options = options or Distillation()
    if len(batches) < 2:
        raise CalibrationError(
            f'recover="distill" needs two calibration batches, one of them to hold out; there are {len(batches)}. Pass '
            "more or smaller batches."
        )
    dense = working_copy(dense)
    with modes_kept(small):
        small.eval()
        return _trained(small, dense, batches, options, seed, (store or TensorStore(math.inf)).shelf(), progress)


def _trained(
    small: nn.Module,
    dense: nn.Module,
    batches: Sequence[Batch],
    options: Distillation,
    seed: int,
    shelf: Shelf,
    progress: Progress,
) -> tuple[float, float]:
    targets = [shelf.put(_floating(forward(dense, batch.call))) for batch in batches]
    train = [i for i in range(len(batches)) if i % 8]
    first = best = _held_out_loss(small, batches, targets)
    state = copy.deepcopy(small.state_dict())
    parameters = [p for p in small.parameters() if p.requires_grad and p.is_floating_point()]
    epochs = options.epochs if parameters else 0
    optimizer = torch.optim.Adam(parameters or [torch.zeros(1, requires_grad=True)], options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    generator = torch.Generator().manual_seed(seed)
    stop, stale = time.monotonic() + options.seconds, 0
    for _ in progress(range(epochs), "distillation"):
        for index in torch.randperm(len(train), generator=generator).tolist():
            if time.monotonic() > stop:
                break
            optimizer.zero_grad()
            with torch.enable_grad(), differentiable_recurrence(small):
                batch, target = batches[train[index]], targets[train[index]].load()
                _loss(_floating(batch.call.map(Tensor.clone)(small)), target).backward()
            optimizer.step()
        schedule.step()
        loss = _held_out_loss(small, batches, targets)
        stale = stale + 1 if not loss < best else 0
        if loss < best:
            best, state = loss, copy.deepcopy(small.state_dict())
        if time.monotonic() > stop or stale >= options.patience:
            break
    optimizer.zero_grad()
    small.load_state_dict(state)
    return first, best


def _floating(output: object) -> list[Tensor]:
    return [t.clone() if t.is_inference() else t for t in tensors_in(output) if t.is_floating_point()]


def _loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    parts = []
    for output, target in zip(outputs, targets, strict=True):
        if output.ndim == 2 and output.shape[1] > 1:
            logs = output.float().log_softmax(1), target.float().log_softmax(1)
            parts.append(nn.functional.kl_div(*logs, reduction="batchmean", log_target=True))
        else:
            error = (output.float() - target.float()).square().mean()
            parts.append(error / target.float().var(correction=0).clamp_min(1e-12))
    return torch.stack(parts).sum()


def _held_out_loss(model: nn.Module, batches: Sequence[Batch], targets: Sequence[Stored]) -> float:
    losses, samples = [], []
    for batch, target in zip(batches[::8], targets[::8], strict=True):
        losses.append(float(_loss(_floating(forward(model, batch.call)), target.load())) * batch.samples)
        samples.append(batch.samples)
    total = sum(losses) / sum(samples)
    return total if math.isfinite(total) else math.inf
