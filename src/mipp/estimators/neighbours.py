"""A few nodes among many: what removing one of them does to the others, in small matrices on the CPU.

A precision matrix that loses rows changes, at other rows, by numbers that are all between these rows: the part of a few
nodes is therefore enough to remove one of them after the other, exactly, as long as no other node goes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_ALL = -1 + 1e-15  # of the precision a node has given the target: it cannot lose more


class Neighbours:
    """Information of a few nodes about one target or several, summed over these.

    Args:
        parts: Precision of the nodes' features without and with each target, shape [2, targets, features, features],
            the features of one node after those of the other.
        num_nodes: Number of nodes.
    """

    def __init__(self, parts: Floats, num_nodes: int) -> None:
        features = parts.shape[-1]
        self.num_nodes, self._width = num_nodes, features // num_nodes
        self._parts, self._half, self._used = parts, np.empty(parts.shape), 0

    @classmethod
    def merge(cls, several: Sequence["Neighbours"]) -> list["Neighbours"]:
        """Neighbours of the same nodes, those with features of one number together."""
        by_width: dict[int, list[Neighbours]] = {}
        for one in several:
            by_width.setdefault(one._width, []).append(one)
        return [cls(np.concatenate([o._parts for o in own], 1), own[0].num_nodes) for own in by_width.values()]

    def loss(self, node: int) -> float:
        """Information lost with a node."""
        rows = self._rows(node)
        done = self._half[..., rows, : self._used]
        without, given = self._parts[..., rows, rows] - done @ done.swapaxes(-1, -2)
        if self._width == 1:
            return 0.5 * float(np.log1p(np.maximum((given - without) / without, _ALL)).sum())
        return 0.5 * float((np.linalg.slogdet(given)[1] - np.linalg.slogdet(without)[1]).sum())

    def remove(self, node: int) -> None:
        """Takes a node away."""
        rows = self._rows(node)
        done = self._half[..., : self._used]
        columns = self._parts[..., rows] - done @ done[..., rows, :].swapaxes(-1, -2)
        pivot = columns[..., rows, :]
        root = np.sqrt(pivot) if self._width == 1 else np.linalg.cholesky(pivot)
        half = columns / root if self._width == 1 else columns @ np.linalg.inv(root).swapaxes(-1, -2)
        self._half[..., self._used : self._used + self._width] = half
        self._used += self._width

    def _rows(self, node: int) -> slice:
        return slice(node * self._width, (node + 1) * self._width)
