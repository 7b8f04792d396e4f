"""Recovery region by region: each learns from what the pruned network feeds it what the dense one wrote there.

Dense and pruned activations advance together through the straight-line program, as in the refit. Each region starts
from the errors that those before it have left; the gradients and the optimiser of one region are in memory at a time.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn

from mipp.data.augmentation import Varied, may_vary
from mipp.data.calibration import Batch, pieces
from mipp.errors import UnsupportedModelError
from mipp.graph.program import StrayedError
from mipp.graph.row_norms import row_norm
from mipp.modules.copies import fill, state_of
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.descent import Descent
from mipp.refit.learner import audible_factors, learning_copy, narrow_products, silence, widen
from mipp.refit.losses import Values, output_loss, relative_error
from mipp.refit.regions import Region, Stretch, find_regions, find_stretches
from mipp.refit.settings import Distillation
from mipp.runtime.record import WARNING
from mipp.runtime.tensor_store import Stored, TensorStore
from mipp.statistics.followed import tell_left_out
from mipp.statistics.paths import Path
from mipp.statistics.replay import Stream, Wish
from mipp.statistics.unfolding import align

_VARIATIONS = 3


class Journal(Protocol):
    """Remembers the weights of steps that are over, for a run that was interrupted."""

    def fill(self, step: str, model: nn.Module) -> list[str] | None:
        """Gives a model the weights that were noted after a step; None if none were."""

    def save_weights(self, step: str, weights: Mapping[str, Tensor]) -> None:
        """Notes weights by name."""


class ByRegions:
    """Trains the regions of `small` in place, from input to output; see `mipp.refit.distillation.distill`.

    The weights of a region are those that did best on held-out batches; if the outputs of the whole network are then
    no nearer to the dense ones on these, all weights stay as they were.

    Raises:
        UnsupportedModelError: The model cannot be run in pieces.
    """

    def __init__(
        self,
        small: nn.Module,
        dense: nn.Module,
        plan: PruningPlan,
        task: Task,
        options: Distillation,
        journal: Journal | None = None,
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
        self.stretches: dict[Path, list[Stretch]] = {}
        for index in self.full.indices():
            self._find_stretches(index)
        self.regions = [self._narrow(number, region) for number, region in enumerate(self.regions)]
        self.check_followed()

    def _find_stretches(self, index: int) -> None:
        """Finds the regions on the path of a batch, the same in both models; without them it is left out."""
        full, cut = self.full.path(index), self.cut.path(index)
        try:
            own = self.stretches.get(full) or find_stretches(self.task.graph, self.regions, full)
        except UnsupportedModelError as error:
            self.full.left_out[index] = error
        else:
            self.stretches[full] = self.stretches[cut] = own

    def _narrow(self, number: int, region: Region) -> Region:
        """A region without the weights that some path reads outside of it."""
        others = frozenset[str]().union(*(own[number].others for own in self.stretches.values()))
        return replace(region, weights=tuple(name for name in region.weights if name not in others))

    def indices(self, among: Sequence[int]) -> list[int]:
        """Those of some batches that are not left out."""
        return [index for index in among if index not in self.full.left_out]

    def check_followed(self) -> None:
        """Refuses to go on without batches to learn from and others to hold out.

        Raises:
            UnsupportedModelError: There are none.
        """
        if not self.indices(self.train) or not self.indices(self.held):
            raise next(iter(self.full.left_out.values()), UnsupportedModelError("there are too few batches"))

    def wish_for(self, number: int) -> Wish:
        """The values that a region hands on, or the outputs, on any path."""

        def wish(path: Path) -> tuple[Sequence[int], int]:
            stretch = self.stretches[path][number]
            return self.outputs_of(path) if stretch.value < 0 else ([stretch.value], stretch.stop)

        return wish

    def outputs_of(self, path: Path) -> tuple[Sequence[int], int]:
        """The outputs that are compared, on any path."""
        program = path.program
        return [i for i in program.outputs if program.values[i].dtype.is_floating_point], len(program.ops)

    def stop_of(self, number: int) -> Callable[[Path], int]:
        """The op behind the last one of a region, on any path."""
        return lambda path: self.stretches[path][number].stop

    def visit(self, stream: Stream, index: int, wish: Wish) -> list[Tensor] | None:
        """The values wanted of a batch; None where it strays, and is left out from now on."""
        try:
            values = stream.values(index, wish)
        except StrayedError as error:
            self.full.left_out[index] = error
            return None
        return [values[value] for value in wish(stream.path(index))[0]]

    def note(self) -> None:
        """Says how many batches were left out."""
        if left := self.full.left_out:
            told = tell_left_out(len(self.batches), left.values(), "the distillation", "batches")
            self.task.notes.append(f"{WARNING}{told}")

    def run(self) -> tuple[float, float]:
        """Trains all regions; returns the held-out loss of the outputs before and after."""
        start = time.monotonic()
        first = self._outputs_apart()
        end = start + self.options.seconds - 2 * (time.monotonic() - start)  # the check at the end takes as long
        regions = list(enumerate(self.regions))
        for number, region in self.task.progress(regions, "distillation"):
            now = time.monotonic()
            self._learn(number, region, now, (end - now) / (len(regions) - number))
            if region is not self.regions[-1]:
                with torch.no_grad():
                    self.cut.advance(self.stop_of(number))
                self.check_followed()
        losses = self._outputs_apart()
        self.note()
        after, before = self.mean(losses), self.mean(first)
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
                    self.full.advance(self.stop_of(number))
            return
        for name, parameter in self.trainable.items():
            parameter.requires_grad_(name in region.weights)
        _Lesson(self, region, number).run(start, seconds)
        if self.journal is not None:
            state = state_of(self.learner)
            self.journal.save_weights(step, {name: state[name] for name in region.weights if name in self.trainable})

    @torch.no_grad()
    def _outputs_apart(self) -> dict[int, float]:
        """The loss of the outputs by held-out batch, from where both models are."""
        found: dict[int, float] = {}
        for index in self.indices(self.held):
            there, here = (self.visit(stream, index, self.outputs_of) for stream in (self.full, self.cut))
            if there is not None and here is not None:
                found[index] = float(output_loss(here, there))
        return found

    def mean(self, losses: Mapping[int, float]) -> float:
        """Over the samples of the batches that are not left out by now; infinite if it is no number."""
        own = self.indices(list(losses))
        total = sum(losses[index] * self.batches[index].samples for index in own)
        return total / sum(self.batches[index].samples for index in own) if own and math.isfinite(total) else math.inf


class _Lesson:
    """The training of one region."""

    def __init__(self, work: ByRegions, region: Region, number: int) -> None:
        self.work, self.region = work, region
        self.number, self.wish = number, work.wish_for(number)
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
        for target in self.targets.values():
            target.release()

    @torch.no_grad()
    def _store_targets(self) -> dict[int, Stored]:
        """The dense values by batch, as far as the pruned model has them; moves the dense model behind the region."""
        work, region, shelf = self.work, self.region, self.work.task.memory.store.shelf()
        found: dict[int, Stored] = {}

        def put(index: int, values: dict[int, Tensor]) -> None:
            there = [values[value] for value in self.wish(work.full.path(index))[0]]
            here = work.visit(work.cut, index, self.wish) if region.kept else there
            if here is not None:
                kept = [align(a, b.shape, region.kept).contiguous() for a, b in zip(there, here, strict=True)]
                found[index] = shelf.put(kept)

        if region is work.regions[-1]:
            work.full.visit(self.wish, put, len(work.batches))
        else:
            work.full.advance(work.stop_of(self.number), self.wish, put)
        return found

    def _shuffle(self) -> Iterator[int]:
        for place in torch.randperm(len(self.work.train), generator=self.generator).tolist():
            yield self.work.train[place]

    def _loss(self, index: int) -> Tensor | None:
        if index in self.work.full.left_out:
            return None
        with narrow_products(next(iter(self.parameters.values())).device):
            values = self.work.visit(self.work.cut, index, self.wish)
        return None if values is None else self._apart(values, self.targets[index].load())

    def _apart(self, values: Values, targets: Values) -> Tensor:
        if self.region.value < 0:
            return output_loss(values, targets)
        return relative_error(values[0], targets[0], self.norm)

    @torch.no_grad()
    def _held_out(self) -> float:
        losses: dict[int, float] = {}
        for index in self.work.indices(self.work.held):
            values = self.work.visit(self.work.cut, index, self.wish)
            if values is not None:
                losses[index] = float(self._apart(values, self.targets[index].load()))
        return self.work.mean(losses)

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
            found.append(replace(piece, call=widen(piece.call)))
    if not may_vary(found[0].call):
        return found, held
    samples = [piece.samples for piece in found]
    starts = list(accumulate(samples, initial=0))[:-1]
    turns = range(1 + _VARIATIONS)
    varied = Varied(found, _VARIATIONS, starts, sum(samples), store)
    return varied, [turn * len(found) + number for turn in turns for number in held]
