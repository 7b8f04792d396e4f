"""Label-free recovery: a short distillation from the dense model on the calibration data."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mipp.data.augmentation import may_vary, vary
from mipp.data.calibration import Batch, pieces
from mipp.errors import CalibrationError, MippError
from mipp.graph.program import Call
from mipp.modules.cells import differentiable_recurrence
from mipp.modules.copies import cast, fill, full_copy, modes_kept, state_of
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.losses import Runner, feature_loss, features, output_loss
from mipp.runtime.progress import Progress
from mipp.surgery.cut import apply

_CHECKS = (0.2, 0.4, 0.6, 0.8)  # of the time or passes; one more is at the end
_VARIATIONS = 2
_BACK = 0.3


class _Score(NamedTuple):
    """On held-out batches: loss of the outputs, and of what is matched."""

    outputs: float
    matched: float


@dataclass(frozen=True)
class Distillation:
    """Duration and learning rate of the distillation.

    Attributes:
        seconds: Time limit; training stops early enough for the final check.
        epochs: Stops after this many passes over the calibration data.
        batch_size: Samples in a step, at most.
        learning_rate: Peak learning rate of Adam. It rises over the first tenth of the time or passes, whichever is
            further along, and falls to zero along a half cosine. If a check finds the network worse than before,
            training goes on from the best weights at three tenths of this rate.
    """

    seconds: float = 60.0
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.learning_rate > 0) or self.epochs < 0 or self.batch_size < 1:
            raise MippError(
                f"Distillation(seconds={self.seconds}, epochs={self.epochs}, batch_size={self.batch_size}, "
                f"learning_rate={self.learning_rate}): expected seconds and learning_rate to be positive, epochs of 0 "
                "or more, and at least one sample in a batch."
            )


def distill(
    small: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    task: Task,
    options: Distillation,
) -> tuple[float, float]:
    """Trains `small` in place to compute what `dense` does, and keeps the weights that do so best on held-out batches.

    What is matched are the values that layers which read removed nodes lead to; where there are none that can learn, or
    the model cannot be run op by op, the outputs (see `mipp.refit.losses.output_loss`). Images are shifted and
    mirrored, those held out as well. Batch norm stays in eval mode; nothing with `requires_grad=False` changes. Where
    nothing improves on the weights it began with, or what does is further from the dense outputs, these stay. Where the
    processor multiplies bfloat16, training does (autocast); weights and checks are in full precision.

    Args:
        small: The pruned model.
        dense: The model it was cut from.
        plan: What was cut.
        task: What the plan was made from. Every eighth of its batches (at least one) is held out; its seed is that of
            their order and of what is done to images.
        options: How long and how fast.

    Returns:
        The held-out loss of the outputs before and after.

    Raises:
        CalibrationError: There are fewer than two batches.
    """
    if len(task.batches) < 2:
        raise CalibrationError(
            'recover="distill" needs two calibration batches, one of them to hold out; there are '
            f"{len(task.batches)}. Pass more or smaller batches."
        )
    with modes_kept(small), differentiable_recurrence(small):
        return _Distiller(small, dense, plan, task, options).run(task.progress)


class _Distiller:
    """One distillation: a copy of the pruned model learns, in the memory format that is fastest for images."""

    def __init__(
        self, small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, options: Distillation
    ) -> None:
        self.options, self.small = options, small
        self.batches, self.held = task.batches, range(0, len(task.batches), 8)
        self.features = features(task.graph, plan)
        images = all(t.ndim == 4 for t in task.batches[0].call.tensors)
        self.learner, model = (_prepare(model, images=images) for model in (small, dense))
        wanted = [feature.value for feature in self.features]
        self.teacher, self.student = (Runner(m, wanted, task.graph.program) for m in (model, self.learner))
        self.parameters = [p for p in self.learner.parameters() if p.requires_grad and p.is_floating_point()]
        self.audible = _audible(plan, dense) if plan.collapsed else {}
        self.generator = torch.Generator().manual_seed(task.seed)
        self.by_features = self._features_learn()

    def run(self, progress: Progress) -> tuple[float, float]:
        """Trains, and loads the best weights into the pruned model; returns the held-out loss before and after."""
        start = time.monotonic()
        first = best = self._score()
        seconds = self.options.seconds - (time.monotonic() - start)  # the check at the end takes as long
        if not self.parameters:
            return first.outputs, first.outputs
        self._learn_at(self.options.learning_rate)
        options = self.options
        train = [i for i in range(len(self.batches)) if i not in self.held]
        steps = options.epochs * sum(math.ceil(self.batches[i].samples / options.batch_size) for i in train)
        step, checks = 0, list(_CHECKS)
        for _ in progress(range(options.epochs), "distillation"):
            for batch in self._shuffle(train):
                share, over = step / steps, (time.monotonic() - start) / max(seconds, 1e-9)
                share = share if over <= (step + 1) / steps else over  # the clock counts only in a run that is late
                if share >= 1:
                    break
                self._step(batch, share)
                step += 1
                if checks and share >= checks[0]:
                    checks, score = checks[1:], self._score()
                    best = self._keep_if_better(score, best, first)
                    if not score.matched <= best.matched:
                        self._start_again()
            if share >= 1:
                break
        return first.outputs, self._keep_if_better(self._score(), best, first).outputs

    def _features_learn(self) -> bool:
        """True if there are features, and some depend on what can learn."""
        some = next(pieces(self.batches[0], None, self.options.batch_size))
        with torch.enable_grad():
            _, values = self.student(_widen(some.call.map(Tensor.clone)))
        return any(value.requires_grad for value in values)

    def _shuffle(self, train: Sequence[int]) -> Iterator[Batch]:
        for place in torch.randperm(len(train), generator=self.generator).tolist():
            yield from pieces(self.batches[train[place]], None, self.options.batch_size)

    def _start_again(self) -> None:
        """From the best weights so far, with smaller steps."""
        fill(self.learner, state_of(self.small))
        self._learn_at(_BACK * self.learning_rate)

    def _learn_at(self, learning_rate: float) -> None:
        self.learning_rate, self.optimiser = learning_rate, torch.optim.Adam(self.parameters)

    def _step(self, batch: Batch, share: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * min(share / 0.1, 0.5 + 0.5 * math.cos(math.pi * share))
        call = _widen(vary(batch.call, self.generator))
        self.teacher.prepare(call)
        self.student.prepare(call)
        device = self.parameters[0].device
        with torch.autocast(device.type, torch.bfloat16, enabled=_multiplies_bfloat16(device)):
            with torch.no_grad():
                said, seen = self.teacher(call)
            with torch.enable_grad():
                output, values = self.student(call)
        with torch.enable_grad():
            loss = feature_loss(values, seen, self.features) if self.by_features else output_loss(output, said)
        if not loss.requires_grad:  # no trainable weight has an influence on it
            return
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            for name, parameter in self.learner.named_parameters():
                if name in self.audible:
                    parameter.mul_(self.audible[name].to(parameter))

    def _keep_if_better(self, score: _Score, best: _Score, first: _Score) -> _Score:
        """Loads the weights into the pruned model if they match better than any before."""
        if not (score.matched < best.matched and score.outputs < first.outputs):
            return best
        fill(self.small, state_of(self.learner))
        return score

    @torch.no_grad()
    def _score(self) -> _Score:
        """The same images, varied in the same way, every time."""
        outputs, matched, samples = 0.0, 0.0, 0
        generator = torch.Generator().manual_seed(0)
        images = any(may_vary(self.batches[index].call) for index in self.held)
        for index in list(self.held) * (_VARIATIONS if images else 1):
            batch = self.batches[index]
            call = _widen(vary(batch.call, generator))
            (said, seen), (output, values) = self.teacher(call), self.student(call)
            own = output_loss(output, said)
            outputs += float(own) * batch.samples
            matched += float(feature_loss(values, seen, self.features) if self.by_features else own) * batch.samples
            samples += batch.samples
        finite = math.isfinite(outputs) and math.isfinite(matched)
        return _Score(outputs / samples, matched / samples) if finite else _Score(math.inf, math.inf)


@torch.no_grad()
def _audible(plan: PruningPlan, dense: nn.Module) -> dict[str, Tensor]:
    """Factors of the cut model's weights: 0 for those that read nodes which stand in for emptied groups, 1 for others.

    Parameters without any 0 are left out.
    """
    ones = full_copy(dense)
    for parameter in ones.parameters():
        parameter.fill_(1)
    return {name: factors for name, factors in apply(plan, ones).named_parameters() if not factors.all()}


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _prepare(model: nn.Module, *, images: bool) -> nn.Module:
    """A copy in eval mode; halves of 16 bits become floats, as Adam's smallest numbers are none of theirs."""
    copied = full_copy(model)
    copied.eval()
    cast(copied, lambda _, tensor: torch.float32 if tensor.dtype == torch.float16 else tensor.dtype)
    for tensor in [*copied.parameters(), *copied.buffers()]:
        if images and tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return copied


def _widen(call: Call) -> Call:
    return call.map(lambda tensor: tensor.float() if tensor.dtype == torch.float16 else tensor)
