"""Labelled images in memory, as bytes: normalised when they are read, a batch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mipp.errors import CalibrationError


class DataSetError(CalibrationError):
    """A data set is not there, is damaged, or is not of the published form."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """Images and labels of one split of a data set.

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`, each in `0 ... num_classes - 1`.
        num_classes: number of classes.
        mean: per channel, of pixels rescaled to [0, 1]; subtracted by `normalised`.
        std: per channel, of pixels rescaled to [0, 1]; divided by in `normalised`.
        name: name of the data set.
        split: "train" or "test".

    Raises:
        DataSetError: if the tensors are not of this form.

    >>> images, labels = torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5)
    >>> data = ImageData(images, labels, num_classes=10, mean=(0.5,), std=(0.25,), name="zeros", split="test")
    >>> data
    ImageData(zeros, test: 5 images of 1x8x8 in 10 classes)
    >>> for images, labels in data.batches(3):
    ...     print(tuple(images.shape), images.unique().item(), labels.tolist())
    (3, 1, 8, 8) -2.0 [0, 1, 2]
    (2, 1, 8, 8) -2.0 [3, 4]
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataSetError(f"{self.name}: images are {_form(images)}; expected uint8 [N, C, H, W]")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataSetError(f"{self.name}: labels are {_form(labels)}; expected int64 [{len(images)}]")
        if ((labels < 0) | (labels >= self.num_classes)).any():
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise DataSetError(f"{self.name}: labels run from {found}; expected 0 to {self.num_classes - 1}")
        if not len(self.mean) == len(self.std) == images.shape[1]:
            found = f"{len(self.mean)} means and {len(self.std)} standard deviations"
            raise DataSetError(f"{self.name}: {found} for {images.shape[1]} channels; expected one each a channel")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"ImageData({self.name}, {self.split}: {len(self):,} images of {shape} in {self.num_classes} classes)"

    def normalise(self, indices: Tensor | slice | None = None) -> Tensor:
        """Return `(images / 255 - mean) / std` of all images, or of those at `indices`, as float32 `[n, C, H, W]`."""
        images = self.images if indices is None else self.images[indices]
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return (images.float() / 255).sub_(mean).div_(std)

    def batches(
        self, size: int, *, limit: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images and their labels, `size` at a time; the last batch may be smaller.

        Args:
            size: images in a batch.
            limit: stop after this many images; None reads all.
            generator: shuffles the images; None keeps their order.
        """
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        for chunk in order[:limit].split(size):
            indices = chunk.to(self.images.device)
            yield self.normalise(indices), self.labels[indices]

    def subset(self, indices: Tensor | slice) -> "ImageData":
        """Return the images at `indices`, with everything else as it is."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "ImageData":
        """Return the same data on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
