"""The samples and positions by which layers are looked at."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from mipp.graph.layers import channel_dim
from mipp.graph.nodes import PruningGraph, Site

if TYPE_CHECKING:
    from mipp.data.calibration import Batch


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

    def stride_of(self, graph: PruningGraph, layers: Iterable[tuple[Site, int]]) -> int:
        """Of how many samples one is enough for all layers, each with its number of features.

        Code that reads values may send few samples where a layer sees them: then all are looked at.
        """
        if graph.program.guards:
            return 1
        return min((self.stride(features, rows_of_sample(site, graph)) for site, features in layers), default=1)


EVERYTHING = Sampling()


def thinned(batches: "Iterable[Batch]", stride: int, first: int) -> "Iterator[tuple[Batch, int]]":
    """Batches of one out of so many samples, each with how many of those lie before its own.

    Args:
        batches: Calibration batches.
        stride: Of how many samples one is taken.
        first: Number of the first sample.
    """
    for batch in batches:
        some = batch.thinned(stride, first)
        if some is not None:
            yield some, -(-first // stride)
        first += batch.samples


def rows_of_sample(site: Site, graph: PruningGraph) -> float:
    """The rows that a layer writes of one sample."""
    op = graph.program.ops[site.op]
    written = graph.program.values[op.outputs[0]].shape
    return prod(written) / written[channel_dim(op)] / graph.batch
