"""Numbers whose squares leave the range of their type, and features that do not vary."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mipp.errors import few
from mipp.graph.program import Program
from mipp.runtime.indexing import take
from mipp.runtime.record import Notes

if TYPE_CHECKING:
    from mipp.statistics.moments import BlockMoments, Moments
    from mipp.statistics.observing import SiteStatistics

LARGEST, SMALLEST = 1e15, 1e-15
"""Of a feature's largest number: the squares of others overflow or vanish in sums of types of 32 bits and fewer."""
_ROUNDINGS = 64
_PIECE, _FEW = 256, 32  # rows
_MOSTLY = 0.5


def are_extreme(*samples: Tensor) -> bool:
    """True if some, each of shape [..., samples, features], have features that are too large or too small.

    A device is asked once for all of them.
    """
    extreme = [
        _is_extreme(own)
        for own in map(Tensor.detach, samples)
        if own.dtype != torch.float64 and own.is_floating_point() and own.numel()
    ]
    return bool(torch.stack(extreme).any()) if extreme else False


def _is_extreme(samples: Tensor) -> Tensor:
    """True, of shape [], if some features are.

    A CPU looks at the largest of all numbers, and then at those features alone that are tiny in the first rows.
    """
    if samples.device.type != "cpu":
        peaks = _peaks(samples).float()
        return ((peaks > LARGEST) | ((peaks > 0) & (peaks < SMALLEST))).any()
    largest = torch.stack(torch.aminmax(samples)).abs().amax().float()
    first = _peaks(samples.narrow(-2, 0, min(_FEW, samples.shape[-2]))).float()
    tiny = torch.nonzero((first < SMALLEST).reshape(-1, first.shape[-1]).any(0))[:, 0]
    if not len(tiny):
        return largest > LARGEST
    peaks = _peaks(take(samples, samples.ndim - 1, tiny)).float()
    return (largest > LARGEST) | ((peaks > 0) & (peaks < SMALLEST)).any()


def _peaks(samples: Tensor) -> Tensor:
    """The size of the largest number of each feature, shape [..., features]; on a CPU in pieces that fit its cache."""
    first, *rest = samples.split(_PIECE if samples.device.type == "cpu" else samples.shape[-2], -2)
    peaks = first.abs()
    for piece in rest:
        some = peaks.narrow(-2, 0, piece.shape[-2])
        torch.maximum(some, piece.abs(), out=some)
    largest: Tensor = peaks.amax(-2)
    return largest


def find_constant(mean: Tensor, variance: Tensor, kind: torch.dtype) -> Tensor:
    """True for features whose variance is no more than the rounding of their mean in a type."""
    return variance <= _ROUNDINGS * torch.finfo(kind).eps ** 2 * mean.square()


def note_odd_numbers(program: Program, found: Mapping[int, "SiteStatistics"], notes: Notes) -> None:
    """Says which layers read mostly what does not vary, and which very large or very small numbers."""

    def constant(moments: "Moments | BlockMoments") -> Tensor:
        return find_constant(moments.mean, moments.variance, torch.float32)

    still = [op for op, own in found.items() if torch.cat([*map(constant, own.inputs)]).double().mean() >= _MOSTLY]
    wide = [op for op, own in found.items() if any(moments.widened for moments in own.inputs)]
    if still:
        notes.append(
            f"Half or more of what is read by {_name(program, still)} is constant over the calibration data: it "
            "carries no information and goes first; the refit moves its share into biases where there are any."
        )
    if wide:
        notes.append(
            f"Numbers beyond {LARGEST:g} or below {SMALLEST:g} are read by {_name(program, wide)}: their products are "
            "summed in float64."
        )


def _name(program: Program, ops: Sequence[int]) -> str:
    """The modules of ops, the first few of them."""
    return few(dict.fromkeys(program.ops[op].module or "the model itself" for op in ops))
