"""Growth of the time of one `prune` with width, depth, samples and image size, each over four doublings.

    python -m benchmarks.growth

Seconds are those of the processor. The exponent is the slope of a straight line through log seconds over log size, less
what the smallest network takes, which is the time of Python per layer; that of theory is the same slope of the
operations that `operations` counts, to leading order.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import mipp
from benchmarks.record import Record, Row
from mipp.methods import MIPP
from mipp.plan.effort import DEFAULT as EFFORT

PASSES, SOLUTIONS = 4, 12
"""Forward passes of one call, as `benchmarks.effort` counts them, and solutions with the inputs of a layer, roughly."""


@dataclass(frozen=True)
class Size:
    """A residual network of linear layers, or of 3 x 3 convolutions where images have a side.

    Attributes:
        width: Units of every layer.
        depth: Blocks of two layers.
        samples: Inputs that it is calibrated on.
        side: Of the images, in pixels; 1: inputs are vectors.
    """

    width: int = 64
    depth: int = 4
    samples: int = 2048
    side: int = 1

    @property
    def kernel(self) -> int:
        return 1 if self.side == 1 else 9


BASE: Mapping[str, Size] = {
    "width": Size(width=256, depth=2, samples=16384),
    "depth": Size(width=64, depth=6, samples=2048),
    "samples": Size(width=128, depth=3, samples=16384),
    "side": Size(width=32, depth=2, samples=32, side=16),
}
DOUBLINGS = 4
SMALLEST: Mapping[str, int] = {"width": 4, "depth": 1, "samples": 64, "side": 2}
"""Whose time counts as fixed."""


class Block(nn.Module):
    """Two layers beside a shortcut."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        make = partial(nn.Conv2d, kernel_size=3, padding=1) if size.side > 1 else nn.Linear
        self.up, self.down = (make(size.width, size.width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    record = Record("growth", budget=0.5, **{name: vars(size) for name, size in BASE.items()})
    measure(Size(samples=256))  # what is slow only once
    for axis, size in BASE.items():
        doubled = [getattr(size, axis) << doubling for doubling in range(DOUBLINGS + 1)]
        for number in (SMALLEST[axis], *doubled):
            own = replace(size, **{axis: number})
            key = {"axis": axis, "size": getattr(own, axis)}
            record.measure(key, partial(measure, own))


def measure(size: Size) -> Row:
    """Seconds of one call, and its operations by theory."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(size) for _ in range(size.depth))).eval()
    shape = (size.width,) if size.side == 1 else (size.width, size.side, size.side)
    batches = torch.randn(size.samples, *shape).split(max(size.samples // 8, 1))
    data = mipp.Calibration(batches, max_samples=None)
    start = time.process_time()
    mipp.prune(model, data, mipp.Budget(macs=0.5), progress=False)
    return {"seconds": round(time.process_time() - start, 2), "operations": operations(size)}


def operations(size: Size) -> float:
    """Operations of one call to leading order: passes, second moments of what layers read, and their solution."""
    inputs, places = size.width * size.kernel, size.side**2
    forward = 2 * size.samples * places * inputs * size.width
    fitted = EFFORT.rows_for(inputs) / min(size.samples, 1024)
    chosen = min(MIPP().positions, EFFORT.positions_for(inputs, size.samples))
    rows = size.samples * (min(places, chosen) + min(places, fitted))
    return 2.0 * size.depth * (PASSES * forward + rows * inputs**2 + SOLUTIONS * inputs**3 / 3)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log values over log sizes, by least squares; the first value is fixed, and part of all others.

    Raises:
        ValueError: A value is not larger than the fixed one: noise of the clock hides what grows.
    """
    grown = np.array(values[1:]) - values[0]
    if not (grown > 0).all():
        raise ValueError(f"{list(values[1:])} are not all larger than the fixed {values[0]}; measure larger networks")
    return float(np.polyfit(np.log(sizes[1:]), np.log(grown), 1)[0])


if __name__ == "__main__":
    main()
