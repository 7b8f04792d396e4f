"""Other views of images: shifted, and half of them mirrored."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from mipp.data.calibration import Batch
from mipp.graph.call import Call
from mipp.runtime.tensor_store import Stored, TensorStore

_IMAGE_CHANNELS = (1, 3, 4)
_MARGIN = 8  # an image moves by up to one part in so many


class Moves(NamedTuple):
    """Shifts in pixels (from the margin on) and mirror flags of each image; shapes [n, 1]."""

    down: Tensor
    right: Tensor
    mirrored: Tensor

    @classmethod
    def draw(cls, count: int, size: Sequence[int], generator: torch.Generator) -> "Moves":
        """Moves of so many images of that height and width."""
        down, right = (torch.randint(2 * (side // _MARGIN) + 1, (count, 1), generator=generator) for side in size)
        return cls(down, right, torch.rand(count, 1, generator=generator) < 0.5)

    def part(self, first: int, count: int) -> "Moves":
        """The moves of `count` images from the `first` on."""
        return Moves(*(one[first : first + count] for one in self))


def move_images(images: Tensor, moves: Moves) -> Tensor:
    """Images [n, C, H, W] shifted, with zeros where nothing was, and mirrored."""
    height, width = images.shape[2:]
    rows, columns = moves.down + torch.arange(height), moves.right + torch.arange(width)
    columns = torch.where(moves.mirrored, columns.flip(1), columns)
    padded = F.pad(images, (width // _MARGIN, width // _MARGIN, height // _MARGIN, height // _MARGIN)).movedim(1, 3)
    places = torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]
    return padded[tuple(place.to(images.device) for place in places)].movedim(3, 1)


def vary(call: Call, generator: torch.Generator) -> Call:
    """A call on images on moved ones; any other on copies of what it has."""
    if not may_vary(call):
        return call.map(Tensor.clone)
    return call.map(lambda images: move_images(images, Moves.draw(len(images), images.shape[2:], generator)))


def may_vary(call: Call) -> bool:
    """True if every input of the batch is an image."""
    tensors = call.tensors
    return len(tensors) == 1 and tensors[0].ndim == 4 and tensors[0].shape[1] in _IMAGE_CHANNELS


class Varied(Sequence[Batch]):
    """Batches of images, and after them so many times the same batches varied; made when they are first asked for.

    What happens to an image depends on its number and nothing else.

    Args:
        batches: All of images of one size.
        times: How often.
        first: Number of the first image of each batch.
        samples: Number of images, of all processes.
        store: Where they are kept.
    """

    def __init__(
        self, batches: Sequence[Batch], times: int, first: Sequence[int], samples: int, store: TensorStore
    ) -> None:
        self._batches, self._times, self._first, self._samples = batches, times, first, samples
        self._shelf = store.shelf()
        self._made: dict[int, Stored] = {}

    def __len__(self) -> int:
        return len(self._batches) * (1 + self._times)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> "Batch | list[Batch]":
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        turn, number = divmod(place := range(len(self))[index], len(self._batches))
        batch = self._batches[number]
        if turn == 0:
            return batch
        if place not in self._made:
            self._made[place] = self._shelf.put(self._vary(batch, turn, number).tensors)
        images = iter(self._made[place].load())
        return replace(batch, call=batch.call.map(lambda _: next(images)))

    def _vary(self, batch: Batch, turn: int, number: int) -> Call:
        generator = torch.Generator().manual_seed(turn)

        def other(images: Tensor) -> Tensor:
            moves = Moves.draw(self._samples, images.shape[2:], generator)
            return move_images(images, moves.part(self._first[number], len(images))).contiguous()

        return batch.call.map(other)
