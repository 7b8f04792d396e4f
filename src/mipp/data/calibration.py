"""Calibration data: read once, cut into pieces, kept in memory up to a limit and beyond it on disk."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from mipp.errors import CalibrationError, UnsupportedModelError, quote
from mipp.graph.call import Call
from mipp.graph.trees import cut, map_tensors, tensors_in
from mipp.modules.copies import holds_numbers
from mipp.modules.wrappers import article
from mipp.runtime.mistakes import border
from mipp.runtime.progress import Progress, silent
from mipp.runtime.settings import check_function, check_settings
from mipp.runtime.tensor_store import Stored, TensorStore

_LEAVES: dict[type, str] = {int: "whole numbers, such as token ids", float: "numbers", str: "text"}
_DEEPEST = 4
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """Calibration batches, and how to read them.

    Attributes:
        batches: Iterable of batches: a Tensor or dict is the input; of a tuple or list the first element is the input
            (Tensor; tuple -> *args; dict -> **kwargs) and the second the labels. Read once.
        max_samples: How many samples to read (along the first dimension), None for all of them.
        forward: Called as `forward(model, batch)`, for batches of any other form. The second element of a tuple or list
            is still taken for the labels by methods that read them.
        sharded: The batches are this process's share; several processes prune together, merge their statistics
            through `torch.distributed`, and all return the same plan and weights. `max_samples` is per process.
    """

    batches: Iterable[Any]
    max_samples: int | None = 1024
    forward: Callable[[nn.Module, Any], Any] | None = None
    sharded: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.batches, Tensor | Mapping):  # one batch, not a sequence of them
            object.__setattr__(self, "batches", [self.batches])
        several = isinstance(self.batches, Iterable) or hasattr(self.batches, "__getitem__")
        if not several or isinstance(self.batches, str | bytes | np.generic):
            raise CalibrationError(
                f"The calibration data are a {type(self.batches).__name__}; expected a list of batches, a DataLoader, "
                "or one batch."
            )
        if not (self.max_samples is None or isinstance(self.max_samples, Integral)):
            raise CalibrationError(
                f"max_samples is {quote(self.max_samples)}; expected a whole number, or None for all."
            )
        check_settings(self, CalibrationError)
        if self.forward is not None:
            check_function("forward", self.forward, "model", "batch")

    @classmethod
    def of(cls, data: "Calibration | Iterable[Any]", max_samples: int = 1024) -> "Calibration":
        """The data as they are, or batches of which so many samples are read."""
        return data if isinstance(data, Calibration) else cls(data, max_samples)


@dataclass(frozen=True)
class Batch:
    """One batch: how to call the model on it, its number of samples, its labels if it has any, and its number.

    One that is `whole` has no dimension of samples to cut along, such as the nodes of a graph.
    """

    call: Call
    samples: int
    labels: Any = None
    number: int = 0
    whole: bool = False

    @property
    def divisible(self) -> bool:
        """True if the call can be made on some of the samples."""
        inputs = self.call.tensors
        return not self.whole and self.call.how is None and all(t.ndim and len(t) == self.samples for t in inputs)

    def thinned(self, stride: int, first: int) -> "Batch | None":
        """One out of so many samples, by their numbers among all; None if it has none of them.

        Runs of samples give one each, at another place from run to run: classes that take turns are not missed. Whole
        batches stay as they are.

        Args:
            stride: The length of a run.
            first: Number of the first sample.
        """
        if stride == 1 or not self.divisible:
            return self
        runs = np.arange(first // stride, (first + self.samples - 1) // stride + 1)
        places = runs * stride + (stride * (runs * _GOLDEN % 1)).astype(np.int64) - first
        chosen = places[(places >= 0) & (places < self.samples)]
        if not len(chosen):
            return None
        return replace(self, call=self.call.pick(chosen), samples=len(chosen), labels=None)


@contextmanager
def name_batch(batch: Batch) -> Iterator[None]:
    """Names the batch where the model fails on it although it ran on the first one.

    Raises:
        CalibrationError: The forward pass raised in the block.
    """
    try:
        yield
    except UnsupportedModelError as error:
        if batch.number and error.__cause__ is not None:
            raise CalibrationError(f"Calibration batch {batch.number} (counted from 0): {error}") from error
        raise


class Batches(Sequence[Batch]):
    """Calibration batches in order; each is fetched from the store when it is asked for."""

    def __init__(self, store: TensorStore) -> None:
        self._store, self._shelf = store, store.shelf()
        self._items: list[tuple[Batch, Stored]] = []

    def append(self, batch: Batch) -> None:
        """Puts a batch away."""
        tensors: list[Tensor] = []
        outline = _map(batch, lambda t: tensors.append(t) or _ABSENT)  # type: ignore[func-returns-value]
        self._items.append((outline, self._shelf.put(tensors)))

    @property
    def samples(self) -> int:
        """Number of samples in all batches."""
        return sum(batch.samples for batch, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> "Batches": ...
    def __getitem__(self, index: int | slice) -> "Batch | Batches":
        if isinstance(index, slice):
            part = Batches(self._store)
            part._shelf, part._items = self._shelf, self._items[index]
            return part
        outline, stored = self._items[index]
        tensors = iter(stored.load())
        return _map(outline, lambda _: next(tensors))


_ABSENT = torch.empty(0)


def _map(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    return replace(batch, call=batch.call.map(function), labels=map_tensors(batch.labels, function))


@border  # iterates over what the caller passed
def read(
    calibration: Calibration,
    device: torch.device | None,
    store: TensorStore | None = None,
    chunk: int = 128,
    progress: Progress = silent,
    cuts: Callable[[Call], bool] = lambda _: True,
) -> Batches:
    """Reads the calibration data once, cut to `max_samples` and into pieces of at most `chunk` samples.

    Args:
        calibration: The data.
        device: Where they are to go; None leaves them where they are.
        store: Where they are kept; by default in memory. Batches that the caller holds in a list stay where they are.
        chunk: Samples per piece, at most.
        progress: Wraps the batches to show how far the reading is.
        cuts: Whether batches like the first one can be cut.

    Raises:
        CalibrationError: There are no batches, a batch has no tensors, or holds NaN or infinity.
    """
    held = device is None and isinstance(calibration.batches, list | tuple)
    batches = Batches(TensorStore(math.inf) if store is None or held else store)
    wanted, samples, whole = calibration.max_samples, 0, False
    if wanted is not None and wanted < 1:
        raise CalibrationError(f"max_samples is {wanted}; at least one sample is needed, or None for all of them.")
    for number, raw in enumerate(progress(calibration.batches, "reading")):
        missing = None if wanted is None else wanted - samples
        batch = _batch(raw, number, calibration.forward, device)
        whole = whole if batches else not cuts(batch.call)
        for piece in pieces(replace(batch, whole=whole), missing, chunk):
            batches.append(piece)
            samples += piece.samples
        if wanted is not None and samples >= wanted:
            break
    if not batches:
        raise CalibrationError(
            "The calibration data are empty: no batch came out of it. Pass a list of batches or a DataLoader; a "
            "generator that was read before is empty too, so make a new one."
        )
    return batches


def as_call(example: Any) -> Call:
    """Turns an input (a Tensor; tuple -> *args; dict -> **kwargs) into a call."""
    if isinstance(example, Mapping):
        return _plainly(Call((), dict(example)))
    return _plainly(Call(tuple(example) if isinstance(example, tuple | list) else (example,)))


def describe_plain(data: Any) -> str:
    """Data without tensors as words: their type, and that of what the containers hold."""
    leaf = _first_leaf(data)
    return article(data) if leaf is data or type(leaf) not in _LEAVES else f"{article(data)} of {_LEAVES[type(leaf)]}"


def hint_at_plain(data: Any) -> str:
    """A sentence on how data without tensors become tensors."""
    leaf = _first_leaf(data)
    if isinstance(leaf, str):
        return 'A tokenizer makes tensors of text: tokenizer(texts, padding=True, return_tensors="pt").'
    if isinstance(leaf, int):
        return 'torch.tensor makes tensors of token ids, as does return_tensors="pt" of a tokenizer.'
    return "torch.from_numpy makes tensors of arrays."


def _first_leaf(data: Any) -> Any:
    """The first entry of the first container, and so on, a few deep."""
    for _ in range(_DEEPEST):
        if isinstance(data, Mapping | tuple | list):
            data = next(iter(data.values() if isinstance(data, Mapping) else data), None)
    return data


def _plainly(call: Call) -> Call:
    odd = any(type(tensor) is not Tensor or tensor.is_inference() for tensor in call.tensors)
    return call.map(_plain) if odd else call


def _plain(tensor: Tensor) -> Tensor:
    """Without a class of its own, and fit for gradients."""
    tensor = tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)
    return tensor.clone() if tensor.is_inference() else tensor


def _batch(raw: Any, number: int, how: Callable[..., Any] | None, device: torch.device | None) -> Batch:
    pair = isinstance(raw, tuple | list)
    if how is None and pair and not raw:
        raise CalibrationError(
            f"Calibration batch {number} is an empty {type(raw).__name__}; expected (input, labels)."
        )
    call = _plainly(Call((raw,), {}, how)) if how is not None else as_call(raw[0] if pair else raw)
    labels = map_tensors(_as_tensor(raw[1]), _plain) if pair and len(raw) > 1 else None
    if not call.tensors:
        hint = "" if how is not None else "; for anything else pass mipp.Calibration(batches, forward=...)"
        raise CalibrationError(
            f"Calibration batch {number} holds no tensor (it is {describe_plain(raw)}). Expected a Tensor, a dict of "
            f"Tensors, or (input, labels){hint}. {hint_at_plain(raw)}"
        )
    if call.samples == 0:
        raise CalibrationError(f"Calibration batch {number} holds no samples (its first dimension is 0); leave it out.")
    for place, tensor in enumerate(call.tensors):
        if tensor.layout is not torch.strided:
            raise CalibrationError(
                f"Calibration batch {number} holds a sparse tensor ({tensor.layout}); mipp follows dense ones. "
                "Pass its to_dense(), and multiply by it with @ in place of torch.sparse.mm."
            )
        if not holds_numbers(tensor, hides=place > 0):
            raise CalibrationError(
                f"Calibration batch {number} holds NaN or infinite values; they would spoil every statistic. Clean the "
                "data or leave the batch out."
            )
    call = call.map(lambda t: t.to(device)) if device is not None else call
    labels = map_tensors(labels, lambda t: t.to(device)) if device is not None else labels
    return Batch(call, call.samples, labels, number)


def _as_tensor(labels: Any) -> Any:
    """Labels in an array or a list of numbers as a tensor, others as they are."""
    numbers = isinstance(labels, list) and labels and all(isinstance(label, Real) for label in labels)
    array = np.array(labels, order="C") if numbers or isinstance(labels, np.ndarray) else None
    return torch.from_numpy(array) if array is not None and array.dtype.kind in "biufc" else labels


def pieces(batch: Batch, missing: int | None, chunk: int) -> Iterator[Batch]:
    """Cuts a batch into pieces of at most `chunk` samples, `missing` (None: all) in sum, where it can be cut."""
    wanted = batch.samples if missing is None else min(missing, batch.samples)
    tensors = batch.call.tensors + tensors_in(batch.labels)
    if batch.whole or any(t.ndim == 0 or t.shape[0] != batch.samples for t in tensors):
        yield batch  # no common first dimension to cut along
        return
    if wanted <= chunk and wanted == batch.samples:
        yield batch
        return
    count = -(-wanted // chunk)
    for number in range(count):  # of about the same size: batch norms cannot take the statistics of one last sample
        start, stop = wanted * number // count, wanted * (number + 1) // count
        labels = cut(batch.labels, batch.samples, slice(start, stop))
        yield replace(batch, call=batch.call.part(start, stop), labels=labels, samples=stop - start)
