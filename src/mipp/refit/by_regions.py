"""Recovery region by region: each learns from what the pruned network feeds it what the dense one wrote there.

Dense and pruned activations advance together through the straight-line program, as in the refit. Each region starts
from the errors that those before it have left; the gradients and the optimiser of one region are in memory at a time.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn

from mipp.data.augmentation import Varied, may_vary
from mipp.data.calibration import Batch, pieces
from mipp.errors import UnsupportedModelError
from mipp.graph.row_norms import row_norm
from mipp.modules.copies import fill, state_of
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.descent import Descent
from mipp.refit.learner import audible_factors, learning_copy, narrow_products, silence, widen
from mipp.refit.losses import Values, output_loss, relative_error
from mipp.refit.regions import Region, find_regions
from mipp.refit.settings import Distillation
from mipp.runtime.tensor_store import Stored, TensorStore
from mipp.statistics.paths import Path
from mipp.statistics.replay import Stream
from mipp.statistics.unfolding import align

_VARIATIONS = 3


class Journal(Protocol):
    """Remembers the weights of steps that are over, for a run that was interrupted."""

    def fill(self, step: str, model: nn.Module) -> list[str] | None:
        """Gives a model the weights that were noted after a step; None if none were."""

    def save_weights(self, step: str, weights: Mapping[str, Tensor]) -> None:
        """Notes weights by name."""


def distill_by_regions(
    small: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    task: Task,
    options: Distillation,
    journal: Journal | None = None,
) -> tuple[float, float]:
    """Trains the regions of `small` in place, from input to output; see `mipp.refit.distillation.distill`.

    The weights of a region are those that did best on held-out batches; if the outputs of the whole network are then
    no nearer to the dense ones on these, all weights stay as they were.

    Returns:
        The held-out loss of the outputs before and after.

    Raises:
        UnsupportedModelError: The model cannot be run in pieces.
    """
    return _RegionWise(small, dense, plan, task, options, journal).run()


class _RegionWise:
    def __init__(
        self,
        small: nn.Module,
        dense: nn.Module,
        plan: PruningPlan,
        task: Task,
        options: Distillation,
        journal: Journal | None,
    ) -> None:
        self.small, self.task, self.options, self.journal = small, task, options, journal
        images = all(t.ndim == 4 for t in task.batches[0].call.tensors)
        self.learner, teacher = (learning_copy(model, images=images) for model in (small, dense))
        self.trainable = {n: p for n, p in self.learner.named_parameters() if p.requires_grad and p.is_floating_point()}
        self.regions = find_regions(task.graph, plan)
        self.audible = audible_factors(plan, dense) if plan.collapsed else {}
        self.batches, self.held = _in_pieces(task.batches, options.batch_size, task.memory.store)
        self.train = [number for number in range(len(self.batches)) if number not in set(self.held)]
        graph, store = task.graph, task.memory.store
        self.full = Stream(teacher, self.batches, graph, store)
        self.cut = Stream(self.learner, self.batches, graph, store, beside=self.full)
        if self.full.left_out or not all(self.full.path(index).is_expected for index in self.full.indices()):
            raise UnsupportedModelError("batches take different paths through the code, and regions are those of one")
        values = graph.program.values
        self.outputs = [index for index in graph.program.outputs if values[index].dtype.is_floating_point]

    def run(self) -> tuple[float, float]:
        """Trains all regions; returns the held-out loss of the outputs before and after."""
        start = time.monotonic()
        before = self._outputs_apart()
        end = start + self.options.seconds - 2 * (time.monotonic() - start)  # the check at the end takes as long
        regions = list(enumerate(self.regions))
        for number, region in self.task.progress(regions, "distillation"):
            now = time.monotonic()
            self._learn(number, region, now, (end - now) / (len(regions) - number))
            if region is not self.regions[-1]:
                with torch.no_grad():
                    self.cut.advance(region.stop)
        after = self._outputs_apart()
        if not after < before:
            return before, before
        fill(self.small, state_of(self.learner))
        return before, after

    def _learn(self, number: int, region: Region, start: float, seconds: float) -> None:
        """Gives a region its weights, from an earlier run or by training; moves the dense model behind it."""
        step = f"region-{number}"
        if self.journal is not None and self.journal.fill(step, self.learner) is not None:
            if region is not self.regions[-1]:
                with torch.no_grad():
                    self.full.advance(region.stop)
            return
        for name, parameter in self.trainable.items():
            parameter.requires_grad_(name in region.weights)
        _Lesson(self, region, number).run(start, seconds)
        if self.journal is not None:
            state = state_of(self.learner)
            self.journal.save_weights(step, {name: state[name] for name in region.weights if name in self.trainable})

    @torch.no_grad()
    def _outputs_apart(self) -> float:
        """The loss of the outputs on held-out batches, from where both models are."""
        end, loss, samples = len(self.task.graph.program.ops), 0.0, 0
        for index in self.held:
            there, here = (stream.values(index, lambda _: (self.outputs, end)) for stream in (self.full, self.cut))
            apart = output_loss([here[v] for v in self.outputs], [there[v] for v in self.outputs])
            loss += float(apart) * self.batches[index].samples
            samples += self.batches[index].samples
        return loss / samples if math.isfinite(loss) else math.inf


class _Lesson:
    """The training of one region."""

    def __init__(self, work: _RegionWise, region: Region, number: int) -> None:
        self.work, self.region = work, region
        self.wanted = work.outputs if region.value < 0 else [region.value]
        self.norm = row_norm(work.task.graph.program, region.value) if region.value >= 0 else None
        self.parameters = {name: work.trainable[name] for name in region.weights if name in work.trainable}
        self.generator = torch.Generator().manual_seed(work.task.seed + 1_000_003 * (number + 1))
        self.targets = self._store_targets()
        self.best, self.weights = math.inf, self._copy()

    def run(self, start: float, seconds: float) -> None:
        """Trains until the passes or the time are over, and leaves the best weights."""
        work, options = self.work, self.work.options
        self.best = self._held_out()
        if self.parameters and self.best > 0:
            seconds -= time.monotonic() - start
            Descent(
                list(self.parameters.values()), options.learning_rate, time.monotonic(), seconds,
                options.epochs * len(work.train), self._loss, self._check, self._go_back,
                lambda: silence(work.learner, work.audible),
            ).run(self._shuffle() for _ in range(options.epochs))  # fmt: skip
            self._go_back()
        for target in self.targets:
            target.release()

    @torch.no_grad()
    def _store_targets(self) -> list[Stored]:
        """The dense values, as far as the pruned model has them; moves the dense model behind the region."""
        work, region, shelf = self.work, self.region, self.work.task.memory.store.shelf()
        found: list[Stored] = []

        def put(index: int, values: dict[int, Tensor]) -> None:
            here = work.cut.values(index, self._wish) if region.kept else values
            found.append(shelf.put([align(values[v], here[v], region.kept).contiguous() for v in self.wanted]))

        if region is work.regions[-1]:
            for index in range(len(work.batches)):
                put(index, work.full.values(index, self._wish))
        else:
            work.full.advance(region.stop, self._wish, put)
        return found

    def _wish(self, _: Path) -> tuple[Sequence[int], int]:
        return self.wanted, self.region.stop

    def _shuffle(self) -> Iterator[int]:
        for place in torch.randperm(len(self.work.train), generator=self.generator).tolist():
            yield self.work.train[place]

    def _loss(self, index: int) -> Tensor:
        with narrow_products(next(iter(self.parameters.values())).device):
            values = self.work.cut.values(index, self._wish)
        return self._apart([values[v] for v in self.wanted], self.targets[index].load())

    def _apart(self, values: Values, targets: Values) -> Tensor:
        if self.region.value < 0:
            return output_loss(values, targets)
        return relative_error(values[0], targets[0], self.norm)

    @torch.no_grad()
    def _held_out(self) -> float:
        work, loss, samples = self.work, 0.0, 0
        for index in work.held:
            values = work.cut.values(index, self._wish)
            own = self._apart([values[v] for v in self.wanted], self.targets[index].load())
            loss += float(own) * work.batches[index].samples
            samples += work.batches[index].samples
        return loss / samples if math.isfinite(loss) else math.inf

    def _check(self) -> bool:
        loss = self._held_out()
        if loss < self.best:
            self.best, self.weights = loss, self._copy()
        return loss <= self.best

    @torch.no_grad()
    def _go_back(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(self.weights[name])

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}


def _in_pieces(batches: Sequence[Batch], size: int, store: TensorStore) -> tuple[Sequence[Batch], list[int]]:
    """Batches of at most so many samples, images in variations too; and which of them are held out."""
    found: list[Batch] = []
    held: list[int] = []
    for number, batch in enumerate(batches):
        for piece in pieces(batch, None, size):
            held += [len(found)] * (number % 8 == 0)
            found.append(_wide(piece))
    if not may_vary(found[0].call):
        return found, held
    samples = [piece.samples for piece in found]
    starts = list(accumulate(samples, initial=0))[:-1]
    turns = range(1 + _VARIATIONS)
    varied = Varied(found, _VARIATIONS, starts, sum(samples), store)
    return varied, [turn * len(found) + number for turn in turns for number in held]


def _wide(piece: Batch) -> Batch:
    return replace(piece, call=widen(piece.call))
