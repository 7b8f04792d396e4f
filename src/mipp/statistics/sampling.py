"""Which rows of the calibration data layers are looked at by."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from mipp.graph.layers import channel_dim
from mipp.graph.nodes import PruningGraph, Site


@dataclass(frozen=True)
class Sampling:
    """Of which samples, and at how many of their positions, layers are looked at: of all, unless said otherwise.

    Attributes:
        positions: At most how many positions of a sample, by the number of features whose moments are taken together
            and by the stride; None: all.
        stride: Of how many samples one is enough for a layer, by that number and by its rows of one sample.
        first: Number of the first sample in this process among all.
    """

    positions: Callable[[int, int], int | None] = lambda *_: None
    stride: Callable[[int, float], int] = lambda *_: 1
    first: int = 0


EVERYTHING = Sampling()


def rows_of_sample(site: Site, graph: PruningGraph) -> float:
    """The rows that a layer writes of one sample."""
    op = graph.program.ops[site.op]
    written = graph.program.values[op.outputs[0]].shape
    return prod(written) / written[channel_dim(op)] / graph.batch
