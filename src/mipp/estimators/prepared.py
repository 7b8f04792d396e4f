"""Samples as the perceptrons read them: standardised, in single precision, and split by image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mipp.estimators.base import Samples, classes_of

_HELD_OUT = 0.2


@dataclass(frozen=True, eq=False)
class Prepared:
    """Standardised samples. A feature that is set to zero says nothing: it has its mean.

    Attributes:
        x: Features of zero mean and unit variance (zero where they are constant), shape [rows, features].
        y: Targets likewise, or classes from zero, shape [rows].
        outputs: Number of outputs that predict y.
        nothing: Surprise at each row's y, in nats, of the best guess that reads no feature, shape [rows].
    """

    x: Tensor
    y: Tensor
    outputs: int
    nothing: Tensor


def prepare(samples: Samples) -> Prepared:
    """Standardises samples."""
    x = _standardise(samples.x)
    if samples.y.is_floating_point():
        y = _standardise(samples.y)
        return Prepared(x, y, y.shape[1], 0.5 * y.square().sum(1))
    y = classes_of(samples.y)
    frequency = torch.bincount(y) / len(y)
    return Prepared(x, y, len(frequency), -frequency.log()[y])


def split_by_image(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to fit on and rows to judge by: all rows of an image are on the same side."""
    found, number = torch.unique(images, return_inverse=True)
    count = min(max(1, round(_HELD_OUT * len(found))), len(found) - 1)
    held = torch.zeros(len(found), dtype=torch.bool)
    held[torch.randperm(len(found), generator=generator)[:count]] = True
    mask = held.to(images.device)[number]
    return torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()


def _standardise(values: Tensor) -> Tensor:
    values = values.double()
    centred = values - values.mean(0)
    spread = centred.square().mean(0).sqrt()
    still = spread <= 1e-12 * values.abs().amax(0)
    return torch.where(still, 0.0, centred / torch.where(still, 1.0, spread)).float()
