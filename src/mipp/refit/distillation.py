"""Label-free recovery: a short distillation from the dense model on the calibration data."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mipp.data.augmentation import may_vary, vary
from mipp.data.calibration import Batch, pieces
from mipp.errors import CalibrationError, UnsupportedModelError
from mipp.graph.bottlenecks import is_chain
from mipp.graph.call import Call
from mipp.graph.row_norms import has_normalised_streams
from mipp.modules.cells import differentiable_recurrence
from mipp.modules.copies import fill, modes_kept, state_of
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.by_regions import ByRegions, Journal
from mipp.refit.descent import Descent
from mipp.refit.learner import audible_factors, learning_copy, narrow_products, silence, widen
from mipp.refit.losses import Runner, Values, feature_loss, features, output_loss
from mipp.refit.settings import Distillation
from mipp.runtime.progress import Progress
from mipp.statistics.paths import Path, same_path

_VARIATIONS = 2


class _Score(NamedTuple):
    """On held-out batches: loss of the outputs, and of what is matched."""

    outputs: float
    matched: float


def distill(
    small: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    task: Task,
    options: Distillation,
    journal: Journal | None = None,
) -> tuple[float, float]:
    """Trains `small` in place to compute what `dense` does, and keeps the weights that do so best on held-out batches.

    All weights learn together, or region after region (`Distillation.by`). What is matched are the values that
    layers which read removed nodes lead to; where there are none that can learn, or the model cannot be run op by
    op, the outputs (see `mipp.refit.losses.output_loss`). Images are shifted and mirrored, those held out as well.
    Batch norm stays in eval mode; nothing with `requires_grad=False` changes. Where nothing improves on the weights
    it began with, or what does is further from the dense outputs, these stay. Where the processor multiplies
    bfloat16, training does (autocast); weights and checks are in full precision.

    Args:
        small: The pruned model.
        dense: The model it was cut from.
        plan: What was cut.
        task: What the plan was made from. Every eighth of its batches (at least one) is held out; its seed is that of
            their order and of what is done to images.
        options: How long and how fast, and whether all weights learn together or region after region.
        journal: Notes each region that is done, for a run that is interrupted.

    Returns:
        The held-out loss of the outputs before and after.

    Raises:
        CalibrationError: There is one batch only, and it cannot be divided.
    """
    task = replace(task, batches=_divide(task.batches))
    if len(task.batches) < 2:
        raise CalibrationError(
            'recover="distill" needs two calibration batches, one of them to hold out; there is one of '
            f"{task.batches[0].samples} samples that cannot be divided. Pass another."
        )
    with modes_kept(small), differentiable_recurrence(small):
        if options.by == "blocks" or (options.by is None and _takes_regions(small, task, options.batch_size)):
            with suppress(UnsupportedModelError):  # it cannot be run in pieces
                return ByRegions(small, dense, plan, task, options, journal).run()
        return _Distiller(small, dense, plan, task, options).run(task.progress)


def _divide(batches: Sequence[Batch]) -> Sequence[Batch]:
    """The batches; of a single one, an eighth of its samples and the others."""
    first = batches[0]
    held = max(1, first.samples // 8)
    if len(batches) > 1 or not first.divisible or first.samples < 2:
        return batches
    parts = (0, held), (held, first.samples)
    return [Batch(first.call.part(*part), part[1] - part[0], number=n) for n, part in enumerate(parts)]


def _takes_regions(small: nn.Module, task: Task, batch_size: int) -> bool:
    """True where regions learn more in the same time, in transformers and chains, or nothing else fits into memory."""
    return has_normalised_streams(task.graph) or is_chain(task.graph) or not _fits(small, task, batch_size)


def _fits(small: nn.Module, task: Task, batch_size: int) -> bool:
    """True if what training adds to a model, and keeps of a step for the way back, is within the memory limit."""
    program, size = task.graph.program, sum(p.numel() * p.element_size() for p in small.parameters())
    made = sum(4 * math.prod(value.shape) for value in program.values if value.origin == "op")
    return (
        3 * size + made * batch_size // task.graph.batch <= 2 * task.memory.store.limit
    )  # gradients, and two moments of Adam


class _Distiller:
    """One distillation: a copy of the pruned model learns, in the memory format that is fastest for images."""

    def __init__(
        self, small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, options: Distillation
    ) -> None:
        self.options, self.small = options, small
        self.batches, self.held = task.batches, range(0, len(task.batches), 8)
        self.features = features(task.graph, plan)
        images = all(t.ndim == 4 for t in task.batches[0].call.tensors)
        self.learner, model = (learning_copy(model, images=images) for model in (small, dense))
        self.teacher, self.student = (Runner(m, self.features, task.graph) for m in (model, self.learner))
        self.parameters = [p for p in self.learner.parameters() if p.requires_grad and p.is_floating_point()]
        self.audible = audible_factors(plan, dense) if plan.collapsed else {}
        self.generator = torch.Generator().manual_seed(task.seed)
        self.by_features = self._features_learn()

    def run(self, progress: Progress) -> tuple[float, float]:
        """Trains, and loads the best weights into the pruned model; returns the held-out loss before and after."""
        start = time.monotonic()
        first = self._score()
        seconds = self.options.seconds - (time.monotonic() - start)  # the check at the end takes as long
        if not self.parameters:
            return first.outputs, first.outputs
        options, best = self.options, [first]

        def check() -> bool:
            score = self._score()
            kept = self._keep_if_better(score, best[0], first)
            best[0] = kept
            return score.matched <= kept.matched

        train = [i for i in range(len(self.batches)) if i not in self.held]
        steps = options.epochs * sum(math.ceil(self.batches[i].samples / options.batch_size) for i in train)
        Descent(
            self.parameters,
            options.learning_rate,
            start,
            seconds,
            steps,
            self._loss,
            check,
            lambda: fill(self.learner, state_of(self.small)),
            partial(silence, self.learner, self.audible),
        ).run(self._shuffle(train) for _ in progress(range(options.epochs), "distillation"))
        return first.outputs, best[0].outputs

    def _features_learn(self) -> bool:
        """True if there are features, and some depend on what can learn."""
        some = next(pieces(self.batches[0], None, self.options.batch_size))
        with torch.enable_grad():
            call = widen(some.call.map(Tensor.clone))
            _, values = self.student(call, self.student.find(call))
        return any(value.requires_grad for value in values or ())

    def _shuffle(self, train: Sequence[int]) -> Iterator[Batch]:
        for place in torch.randperm(len(train), generator=self.generator).tolist():
            yield from pieces(self.batches[train[place]], None, self.options.batch_size)

    def _loss(self, batch: Batch) -> Tensor:
        call = widen(vary(batch.call, self.generator))
        paths = self._find(call)
        with narrow_products(self.parameters[0].device):
            with torch.no_grad():
                dense = self.teacher(call, paths[0])
            small = self.student(call, paths[1])
        return self._distance(small, dense)

    def _find(self, call: Call) -> tuple[Path | None, Path | None]:
        """The paths of a call in both models; none where they part."""
        dense, small = self.teacher.find(call), self.student.find(call)
        return (dense, small) if dense is not None and small is not None and same_path(dense, small) else (None, None)

    def _distance(self, small: tuple[Values, Values | None], dense: tuple[Values, Values | None]) -> Tensor:
        """The loss of the features; that of the outputs where there are none, or none of them can learn."""
        (output, values), (said, seen) = small, dense
        if not self.by_features or values is None or seen is None:
            return output_loss(output, said)
        return feature_loss(values, seen, self.features)

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
            call = widen(vary(batch.call, generator))
            paths = self._find(call)
            dense, small = self.teacher(call, paths[0]), self.student(call, paths[1])
            outputs += float(output_loss(small[0], dense[0])) * batch.samples
            matched += float(self._distance(small, dense)) * batch.samples
            samples += batch.samples
        finite = math.isfinite(outputs) and math.isfinite(matched)
        return _Score(outputs / samples, matched / samples) if finite else _Score(math.inf, math.inf)
