"""A few nodes among many: what removing one of them does to the others, in small matrices on the CPU.

A precision matrix that loses rows changes, at other rows, by numbers that are all between these rows: the part of a few
nodes is therefore enough to remove one of them after the other, exactly, as long as no other node goes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PENDING = 16  # nodes that are removed before those that are gone are dropped, where nodes have several features
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
        self._alive = np.ones(num_nodes, bool)
        self._pending = features if self._width == 1 else _PENDING * self._width
        own = np.arange(features).reshape(num_nodes, -1)
        blocks = parts[..., own[:, :, None], own[:, None, :]]  # up to date; of `_parts` the rest is not
        self._begin(parts, blocks, np.arange(num_nodes))

    @classmethod
    def merge(cls, several: Sequence["Neighbours"]) -> list["Neighbours"]:
        """Neighbours of the same nodes, those with features of one number together."""
        by_width: dict[int, list[Neighbours]] = {}
        for one in several:
            by_width.setdefault(one._width, []).append(one)
        return [cls(np.concatenate([o._parts for o in own], 1), own[0].num_nodes) for own in by_width.values()]

    def loss(self, node: int) -> float:
        """Information lost with a node."""
        return float(self._losses_of(self._blocks[..., self._place(node), :, :]))

    def losses(self) -> Floats:
        """Information lost with each of the nodes; of those that are gone, any number."""
        found = np.zeros(self.num_nodes)
        found[self._nodes] = self._losses_of(self._blocks)
        return found

    def _losses_of(self, blocks: Floats) -> Any:
        """Summed over the targets, of blocks [2, targets, ..., width, width]."""
        if self._width == 1:
            without, given = blocks
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (given - without) / without
            return 0.5 * np.log1p(np.maximum(ratio, _ALL))[..., 0, 0].sum(0)
        without, given = np.linalg.slogdet(blocks)[1]
        return 0.5 * (given - without).sum(0)

    def remove(self, node: int) -> None:
        """Takes a node away."""
        if self._width == 1:
            self._remove_feature(node)
            return
        if self._used == self._pending:
            self._drop()
        place = self._place(node)
        rows = slice(place * self._width, (place + 1) * self._width)
        done = self._half[:, :, : self._used]
        columns = self._parts[:, :, rows] - done[..., rows].swapaxes(-1, -2) @ done
        half = np.linalg.inv(np.linalg.cholesky(columns[..., rows])) @ columns
        self._half[:, :, self._used : self._used + self._width] = half
        self._used += self._width
        own = half.swapaxes(-1, -2).reshape(*half.shape[:2], -1, self._width, self._width)
        self._blocks -= own @ own.swapaxes(-1, -2)
        self._blocks[..., place, :, :] = np.eye(self._width)
        self._alive[node] = False

    def _drop(self) -> None:
        """Forgets the nodes that are gone; what their removal does to the others is done."""
        left = self._alive[self._nodes]
        rows = np.flatnonzero(np.repeat(left, self._width))
        done = self._half.take(rows, -1)
        parts = self._parts.take(rows, -2).take(rows, -1)
        self._begin(parts - done.swapaxes(-1, -2) @ done, self._blocks[:, :, left], self._nodes[left])

    def _begin(self, parts: Floats, blocks: Floats, nodes: Ints) -> None:
        """Starts with the nodes whose features these parts hold, none of them removed."""
        self._parts, self._blocks, self._nodes, self._used = parts, blocks, nodes, 0
        self._half = np.empty((*parts.shape[:2], min(self._pending, parts.shape[-1]), parts.shape[-1]))

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

    def _place(self, node: int) -> int:
        return int(np.searchsorted(self._nodes, node))
