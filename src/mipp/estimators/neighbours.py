"""A few nodes among many: what removing one of them does to the others, in small matrices on the CPU.

A precision matrix that loses rows changes, at other rows, by numbers that are all between these rows: the part of a few
nodes is therefore enough to remove one of them after the other, exactly, as long as no other node goes.
"""

from collections.abc import Sequence
from typing import Any

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
        own = np.arange(features).reshape(num_nodes, -1)
        self._blocks = parts[..., own[:, :, None], own[:, None, :]]  # up to date; of `_parts` the rest is not

    @classmethod
    def merge(cls, several: Sequence["Neighbours"]) -> list["Neighbours"]:
        """Neighbours of the same nodes, those with features of one number together."""
        by_width: dict[int, list[Neighbours]] = {}
        for one in several:
            by_width.setdefault(one._width, []).append(one)
        return [cls(np.concatenate([o._parts for o in own], 1), own[0].num_nodes) for own in by_width.values()]

    def loss(self, node: int) -> float:
        """Information lost with a node."""
        return float(self._losses_of(self._blocks[..., node, :, :]))

    def losses(self) -> Floats:
        """Information lost with each of the nodes; of those that are gone, any number."""
        found: Floats = self._losses_of(self._blocks)
        return found

    def _losses_of(self, blocks: Floats) -> Any:
        """Summed over the targets, of blocks [2, targets, ..., width, width]."""
        without, given = blocks
        if self._width == 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (given - without) / without
            return 0.5 * np.log1p(np.maximum(ratio, _ALL))[..., 0, 0].sum(0)
        return 0.5 * (np.linalg.slogdet(given)[1] - np.linalg.slogdet(without)[1]).sum(0)

    def remove(self, node: int) -> None:
        """Takes a node away."""
        if self._width == 1:
            self._remove_feature(node)
            return
        rows = self._rows(node)
        done = self._half[..., : self._used]
        columns = self._parts[..., rows] - done @ done[..., rows, :].swapaxes(-1, -2)
        pivot = columns[..., rows, :]
        half = columns @ np.linalg.inv(np.linalg.cholesky(pivot)).swapaxes(-1, -2)
        self._half[..., self._used : self._used + self._width] = half
        self._used += self._width
        own = half.reshape(*self._blocks.shape[:-1], self._width)
        self._blocks = self._blocks - own @ own.swapaxes(-1, -2)
        self._blocks[..., node, :, :] = np.eye(self._width)

    def _remove_feature(self, node: int) -> None:
        """The same for nodes of one feature each, whose halves lie in rows."""
        row = self._parts[:, :, node]
        if self._used:
            done = self._half[:, :, : self._used]
            row = row - np.matmul(done[..., None, :, node], done)[..., 0, :]
        half = row / np.sqrt(row[..., node, None])
        self._half[:, :, self._used] = half
        self._used += 1
        own = self._blocks[..., 0, 0]
        own -= half * half
        own[..., node] = 1

    def _rows(self, node: int) -> slice:
        return slice(node * self._width, (node + 1) * self._width)
