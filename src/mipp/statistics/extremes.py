"""Numbers whose squares leave the range of their type, and features that do not vary."""

import torch
from torch import Tensor

LARGEST, SMALLEST = 1e15, 1e-15
"""Of a feature's largest number: the squares of others overflow or vanish in sums of types of 32 bits and fewer."""
_ROUNDINGS = 64


def widen_extremes(samples: Tensor) -> Tensor:
    """Samples, shape [..., samples, features], in float64 if they have features that are too large or too small."""
    if samples.dtype == torch.float64 or not samples.is_floating_point() or not samples.numel():
        return samples
    low, high = samples.detach().aminmax(dim=-2)
    peak = torch.maximum(-low, high).float()
    extreme = (peak > LARGEST) | ((peak > 0) & (peak < SMALLEST))
    return samples.double() if bool(extreme.any()) else samples


def find_constant(mean: Tensor, variance: Tensor, kind: torch.dtype) -> Tensor:
    """True for features whose variance is no more than the rounding of their mean in a type."""
    return variance <= _ROUNDINGS * torch.finfo(kind).eps ** 2 * mean.square()
