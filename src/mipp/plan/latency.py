"""Milliseconds of a network: measured, and as a function of the widths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.benchmark.utils.timer import timer

from mipp.graph.call import Call
from mipp.graph.nodes import Work
from mipp.graph.trace import forward
from mipp.modules.copies import working_copy
from mipp.plan.quantities import Floats, Sum

_LONG = 0.05  # seconds


def latency_ms(model: nn.Module, call: Call, seconds: float = 0.02) -> float:
    """Median time of one forward pass in milliseconds, in eval and inference mode, all threads.

    Args:
        model: Not changed.
        call: What it is called with.
        seconds: Passes are timed until they took this long together. One goes before, to warm up, and is the only one
            where it takes a twentieth of a second by itself.
    """
    copied = working_copy(model)

    def take_time() -> float:
        start = timer()  # waits for the device
        forward(copied, call)
        return timer() - start

    first = take_time()
    if first >= _LONG:
        return 1e3 * first
    times = [take_time()]
    while sum(times) < seconds:
        times.append(take_time())
    return 1e3 * median(times)


TIMERS: dict[str, Callable[[nn.Module, Call], float]] = {"torch": latency_ms}
"""Functions that take this time, by the name that `Budget(runtime=...)` has for the runtime; others add theirs."""


@dataclass(frozen=True)
class LayerTimes:
    """Measured milliseconds of every layer at several sizes.

    Attributes:
        layers: Which ops count as one layer: their indices, by layer.
        macs: MACs per sample at which a layer was measured, ascending, shape [layers, sizes].
        ms: What it took, shape [layers, sizes].
    """

    layers: tuple[tuple[int, ...], ...]
    macs: Floats
    ms: Floats


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a network: a sum over its layers, each between two measured sizes as a straight line.

    Attributes:
        macs: MACs per sample, a term per op and product of widths.
        layer: The layer of every term, shape [terms].
        times: What was measured.
    """

    macs: Sum
    layer: NDArray[np.int64]
    times: LayerTimes

    @classmethod
    def of(cls, works: Sequence[Work], groups: Sequence[str], unit: float, times: LayerTimes) -> "Latency":
        """Milliseconds of layers that do this work, counted in MACs per sample by `unit`."""
        layer = {op: number for number, ops in enumerate(times.layers) for op in ops}
        return cls(Sum.of(works, groups, unit, merged=False), np.array([layer[work.op] for work in works]), times)

    def __call__(self, widths: Floats) -> float:
        return float(self._ms(self.sizes(widths)).sum())

    def per_group(self, widths: Floats) -> Floats:
        """The saving of one node less in each group, shape [groups].

        Kernels take steps, on which a single node costs nothing: the slope is that from the smallest size measured.
        """
        sizes, least = self.sizes(widths), self.times.macs[:, 0]
        above = np.maximum(sizes - least, (self.times.macs[:, -1] - least) / 100 + 1e-300)
        slopes = (self._ms(least + above) - self.times.ms[:, 0]) / above
        return self.macs.per_group(widths, np.maximum(slopes, 0)[self.layer])

    def sizes(self, widths: Floats) -> Floats:
        """MACs of every layer, shape [layers]."""
        found: Floats = np.bincount(self.layer, self.macs.terms(widths), len(self.times.layers)).astype(float)
        return found

    def _ms(self, sizes: Floats) -> Floats:
        return np.array([np.interp(*row) for row in zip(sizes, self.times.macs, self.times.ms, strict=True)])
