"""Images in one folder per class, too many for memory: read, scaled and cropped a batch at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mipp.zoo import DataSetError

_SCALE = (0.08, 1.0)  # share of the area that a training crop shows, and
_RATIO = (3 / 4, 4 / 3)  # its width by its height: Szegedy et al. (CVPR 2015), as everybody trains on ImageNet
_MARGIN = 256 / 224  # a test image's shorter side by the side of the square cut from its centre


def _processes() -> int:
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True, eq=False, repr=False)
class ImageFolder:
    """Labelled images in files; used like `mipp.zoo.ImageData`.

    Attributes:
        top: The folder that holds a folder per class.
        files: Paths below it, `[N]`.
        labels: int64 `[N]`.
        num_classes: How many folders there are.
        mean: Per channel, of pixels rescaled to [0, 1].
        std: Likewise.
        name: Of the data set.
        split: "train" or "test".
        size: Height and width of the images that are returned.
        device: Where they go.
        workers: Processes that read; 0: this one does.
    """

    top: Path
    files: NDArray[np.bytes_]
    labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    split: str
    size: int = 224
    device: torch.device | str = "cpu"
    workers: int = field(default_factory=_processes)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageFolder({self.name}, {self.split}: {len(self):,} images in {self.num_classes:,} classes)"

    def batches(
        self, size: int, *, limit: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised squares from the images' centres and their labels, `size` at a time, as `ImageData.batches`."""
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        mean = 255 * torch.tensor(self.mean, device=self.device)[:, None, None]
        std = 255 * torch.tensor(self.std, device=self.device)[:, None, None]
        for _, images, labels in self.read(list(order[:limit].split(size)), None):
            yield images.to(self.device).float().sub_(mean).div_(std), labels.to(self.device)

    def read(self, batches: list[Tensor], drawn: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Indices, uint8 images `[B, 3, size, size]` and labels, batch by batch.

        Args:
            batches: The indices of each batch.
            drawn: In [0, 1), `[4, N]`: area, shape, row and column of each image's crop; None: the centre.
        """
        workers = min(self.workers, len(batches))
        chunks = [batch.tolist() for batch in batches]
        source = _Pictures(self, None if drawn is None else drawn.T.contiguous())
        loader = DataLoader(source, batch_sampler=chunks, num_workers=workers, pin_memory=torch.cuda.is_available())
        for indices, pictures in loader:
            yield indices, pictures.permute(0, 3, 1, 2), self.labels[indices]

    def subset(self, indices: Tensor | slice) -> "ImageFolder":
        """The images at `indices`, with everything else as it is."""
        places = torch.arange(len(self))[indices]
        return replace(self, files=self.files[places.numpy()], labels=self.labels[places])

    def to(self, device: torch.device | str) -> "ImageFolder":
        """The same images, returned on a device."""
        return replace(self, device=device)


class _Pictures(Dataset[tuple[int, Tensor]]):
    """Index and uint8 pixels `[size, size, 3]` of each image."""

    def __init__(self, folder: ImageFolder, drawn: Tensor | None) -> None:
        self.folder, self.drawn = folder, drawn

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        path = self.folder.top / os.fsdecode(self.folder.files[index])
        side = self.folder.size
        try:
            with Image.open(path) as picture:
                box = _centre(*picture.size) if self.drawn is None else crop(*picture.size, *self.drawn[index].tolist())
                small = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box)
        except OSError as error:
            raise DataSetError(f"{path} cannot be read ({error}); expected an image; download it again") from error
        return index, torch.from_numpy(np.array(small))


def _centre(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height) / _MARGIN
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def crop(
    width: int, height: int, area: float, shape: float, row: float, column: float
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a training crop, which never leaves the image.

    Args:
        width: Of the image, in pixels.
        height: Likewise.
        area: In [0, 1): from the smallest to the largest share of the area.
        shape: In [0, 1): from the highest to the widest crop, on a logarithmic scale.
        row: In [0, 1): from the highest place to the lowest.
        column: In [0, 1): from left to right.
    """
    share = _SCALE[0] + area * (_SCALE[1] - _SCALE[0])
    ratio = _RATIO[0] * (_RATIO[1] / _RATIO[0]) ** shape
    wide = min(width, (width * height * share * ratio) ** 0.5)
    high = min(height, (width * height * share / ratio) ** 0.5)
    left, top = column * (width - wide), row * (height - high)
    return left, top, left + wide, top + high
