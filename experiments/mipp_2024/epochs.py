"""An epoch's batches: their order and augmentation are drawn at once, from the seed and the number of the epoch.

So a training goes on in the middle of an epoch from nothing but the number of its step, the same numbers are drawn on
every device, and processes that share a batch need not talk about who takes what.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from experiments.mipp_2024 import augment
from experiments.mipp_2024.folders import ImageFolder
from torch import Tensor

from mipp.zoo import ImageData

Data = ImageData | ImageFolder
Augmentation = Literal["crop", "flip", "mixup", "cutout"]


@dataclass(frozen=True, eq=False)
class Batch:
    """One process's share of a batch.

    Attributes:
        images: Normalised, float32 `[B, C, H, W]`.
        labels: int64 `[B]`.
        partners: int64 `[B]`: the labels of what the images were mixed with; None without mixup.
        share: `[]`: of the images themselves in the mixture.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor | None
    share: Tensor


@dataclass(frozen=True, eq=False)
class Epoch:
    """The random draws of one epoch.

    Attributes:
        order: int64 `[steps, B]`: which images, by step; an incomplete last batch is left out.
        crop: float32 `[4, N]`, in [0, 1): area, shape, row and column of each image's crop.
        mirrored: bool `[N]`.
        hole: float32 `[2, N]`, in [0, 1): row and column of the hole that cutout makes.
        shares: float32 `[steps]`: of mixup, from Beta(1, 1).
    """

    order: Tensor
    crop: Tensor
    mirrored: Tensor
    hole: Tensor
    shares: Tensor

    @classmethod
    def draw(cls, count: int, batch_size: int, seed: int, number: int) -> "Epoch":
        """Draws the epoch of that number from `count` images."""
        rng = np.random.default_rng([seed, number])
        steps = count // batch_size
        order = rng.permutation(count)[: steps * batch_size].reshape(steps, batch_size)
        drawn = torch.from_numpy(rng.random((7, count), dtype=np.float32))
        shares = torch.from_numpy(rng.beta(1, 1, steps).astype(np.float32))
        return cls(torch.from_numpy(order), drawn[:4], drawn[4] < 0.5, drawn[5:], shares)

    def batches(
        self,
        data: Data,
        augmentation: tuple[Augmentation, ...],
        hole: int,
        device: torch.device,
        *,
        steps: range | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> Iterator[Batch]:
        """One process's shares of the batches.

        Args:
            data: The images; those in memory are best on the device already.
            augmentation: What is done to them.
            hole: Side of the hole that cutout makes, in pixels.
            device: Where the batches go.
            steps: Which ones of the epoch; None: all.
            rank: Which process.
            processes: How many there are.
        """
        steps = range(len(self.order)) if steps is None else steps
        order = self.order[steps.start : steps.stop]
        own, mixed = order[:, rank::processes], "mixup" in augmentation
        count = own.shape[1]
        if mixed and processes > 1:  # partners are those of the whole batch, of which others have some
            own = torch.cat([own, order.flip(1)[:, rank::processes]], 1)
        mean, std = (255 * torch.tensor(value, device=device)[:, None, None] for value in (data.mean, data.std))
        shares, holes = self.shares.to(device), self.hole.to(device)
        for step, (indices, pixels, labels) in zip(steps, self._read(data, own, augmentation, device), strict=True):
            images = pixels.float().sub_(mean).div_(std)
            if "cutout" in augmentation:
                row, column = (holes[:, indices] * images.shape[2]).long()
                images = augment.cutout(images, row, column, hole)
            if mixed:
                others, partners = (t[count:] if processes > 1 else t.flip(0) for t in (images, labels))
                together = augment.mixup(images[:count], others, shares[step])
                yield Batch(together, labels[:count], partners, shares[step])
            else:
                yield Batch(images, labels, None, shares[step])

    def _read(
        self, data: Data, own: Tensor, augmentation: tuple[Augmentation, ...], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Indices, uint8 images, cropped and mirrored, and labels, batch by batch."""
        mirrored = (self.mirrored & ("flip" in augmentation)).to(device)
        if isinstance(data, ImageFolder):
            for batch in data.read(list(own), self.crop if "crop" in augmentation else None):
                indices, images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
                turned = mirrored[indices][:, None, None, None]
                yield indices, torch.where(turned, images.flip(3), images), labels
            return
        margin = data.images.shape[2] // 8 if "crop" in augmentation else 0
        places = (self.crop[2:] * (2 * margin + 1)).long().to(device)
        for indices in own.to(device):
            images, labels = data.images[indices], data.labels[indices]
            if margin or "flip" in augmentation:
                down, right = places[:, indices]
                images = augment.crop_flip(images, down, right, mirrored[indices], margin)
            yield indices, images, labels
