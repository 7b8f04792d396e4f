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
_PIECE, _FEW, _MORE = 256, 32, 8  # rows at a time, those looked at first, and by how many times more each time
_MOSTLY = 0.5


def are_extreme(*samples: Tensor) -> bool:
    """True if some, each of shape [..., samples, features], have features that are too large or too small.

    A device is asked once for all of them.
    """
    own = [s.detach() for s in samples if s.dtype != torch.float64 and s.is_floating_point() and s.numel()]
    if all(s.device.type == "cpu" for s in own):
        return any(map(_holds_extremes, own))
    peaks = [_peaks(s).float() for s in own]
    return bool(torch.stack([(p.amax() > LARGEST) | _is_tiny(p).any() for p in peaks]).any())


def _holds_extremes(samples: Tensor) -> bool:
    """True if some features are, by the largest of all numbers and by the features that are tiny in the rows so far."""
    if max(-float(samples.amin()), float(samples.amax())) > LARGEST:  # aminmax is slow on views that are turned
        return True
    whole = samples.reshape(-1, *samples.shape[-2:])
    peaks = _peaks(whole[:, :_FEW])
    start, size = _FEW, _FEW
    groups, features = torch.arange(len(whole)), torch.arange(whole.shape[2])
    while True:
        tiny = peaks.float() < SMALLEST
        own, among = (torch.nonzero(tiny.any(dim))[:, 0] for dim in (1, 0))
        if not len(own):
            return False
        if start >= whole.shape[1]:
            return bool(_is_tiny(peaks.float()).any())
        groups, features, size = groups[own], features[among], size * _MORE
        some = whole[:, start : start + size]
        if len(groups) * len(features) < len(whole) * whole.shape[2]:
            some = take(some.index_select(0, groups), 2, features)
        peaks, start = torch.maximum(peaks[own][:, among], _peaks(some)), start + size


def _is_tiny(peaks: Tensor) -> Tensor:
    return (peaks > 0) & (peaks < SMALLEST)


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
