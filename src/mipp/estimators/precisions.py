"""Precision matrices of features that lose one node after the other, for many targets at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mipp.estimators.features import log_det_plus_one
from mipp.estimators.neighbours import Neighbours
from mipp.runtime.indexing import take

_PENDING = 32
_LEAST_STALE = 64  # features
_ROWS = 256  # of matrices that are copied at a time

Fresh = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Makes the precisions of the features of some nodes without and given a target, shape [features, features] each."""


class Remaining:
    """The nodes that are still there, with the precisions of their features without and given each of some targets.

    Args:
        fresh: Makes these precisions from scratch, one for each target.
        without: Precisions without the targets, shape [targets, features, features]; changed.
        given: Precisions given each target, of the same shape; changed.
        nodes: Number of nodes, of which all are there.

    Attributes:
        alive: Those that are there, ascending.
    """

    def __init__(self, fresh: Sequence[Fresh], without: Tensor, given: Tensor, nodes: int) -> None:
        self.alive = torch.arange(nodes, device=without.device)
        self._fresh, self._is_alive = fresh, torch.ones_like(self.alive, dtype=torch.bool)
        self._begin(without, given)

    @classmethod
    def merge(cls, several: Sequence["Remaining"]) -> "Remaining":
        """All targets of several at once; of the nodes, the same for all, none has gone."""
        fresh = [make for one in several for make in one._fresh]
        without, given = (torch.cat([one._both[place].matrices for one in several]) for place in (0, 1))
        return cls(fresh, without, given, len(several[0]._is_alive))

    def losses_of_each(self) -> Tensor:
        """The information about each target that every node loses, infinite if it has gone; [targets, nodes]."""
        out = self._both[0].blocks.new_full((len(self._fresh), len(self._is_alive)), torch.inf)
        out[:, self.alive] = self._losses_of(self.alive)
        return out.cpu()

    def loss_of_each(self, node: int) -> Tensor:
        """That of one node that is still there, shape [targets]."""
        return self._losses_of(torch.tensor([node], device=self.alive.device))[:, 0]

    def losses(self) -> Tensor:
        """The same for the sum over the targets, shape [nodes]."""
        return self.losses_of_each().sum(0)

    def loss(self, node: int) -> float:
        """That of one node that is still there."""
        return float(self.loss_of_each(node).sum())

    def remove(self, node: int) -> None:
        """Takes a node away."""
        self.remove_all([node])

    def remove_all(self, nodes: Sequence[int]) -> None:
        """Takes several nodes away at once."""
        self._is_alive[list(nodes)] = False
        self.alive = torch.nonzero(self._is_alive).flatten()
        if not len(self.alive):
            return
        for precisions in self._both:
            precisions.remove(nodes, self.alive)
        self._stale += len(nodes) * self._both[0].blocks.shape[2]
        if self._stale > max(self._begun_with // 2, _LEAST_STALE):
            self.refresh()

    def refresh(self) -> None:
        """Makes the precisions of what is left from scratch, free of what rounding has added up to."""
        several = [make(self.alive) for make in self._fresh]
        without, given = (_stack(matrices) for matrices in zip(*several, strict=True))
        self._begin(without, given)

    def among(self, nodes: Tensor) -> Neighbours:
        """A few nodes by themselves while the others stay as they are, on the CPU."""
        parts = torch.stack([precisions.of(nodes) for precisions in self._both])
        return Neighbours(parts.cpu().numpy(), len(nodes))

    def _losses_of(self, nodes: Tensor) -> Tensor:
        without, given = (precisions.blocks[:, nodes] for precisions in self._both)
        return 0.5 * log_det_plus_one(without, given - without)

    def _begin(self, without: Tensor, given: Tensor) -> None:
        self._both = [Precisions(matrices, self.alive, len(self._is_alive)) for matrices in (without, given)]
        self._stale, self._begun_with = 0, without.shape[-1]


class Precisions:
    """Precision matrices of the features of the same nodes, which all lose a node at the same time.

    Only the diagonal blocks are kept up to date; the rest waits until `_PENDING` removals can be done in one product.
    What belongs to nodes that are gone is dropped now and then.

    Args:
        matrices: Precisions, the features of one node after those of the other, shape [matrices, features, features];
            they are changed.
        alive: Nodes whose features these are.
        nodes: Number of nodes, with those that are gone.

    Attributes:
        matrices: Without what waits, of the nodes that had not gone when it was last dropped.
        blocks: Those of single nodes, right for the nodes that are alive, shape [matrices, nodes, width, width].
    """

    def __init__(self, matrices: Tensor, alive: Tensor, nodes: int) -> None:
        self.matrices, self._used = matrices, 0
        self._width = matrices.shape[-1] // max(len(alive), 1)
        self.blocks = matrices.new_zeros(len(matrices), nodes, self._width, self._width)
        self._place(nodes, alive)
        rows = self._rows[alive]
        self.blocks[:, alive] = matrices[:, rows[:, :, None], rows[:, None, :]]

    def remove(self, nodes: Sequence[int], alive: Tensor) -> None:
        """Down-dates by the rows of `nodes`; afterwards only the blocks of the nodes in `alive` are right."""
        rows = self._rows[list(nodes)].flatten()
        if self._used + len(rows) > self._half.shape[2]:
            self._flush()
        columns = self._columns(rows)
        pivot = torch.linalg.cholesky(columns[:, rows])
        half = torch.linalg.solve_triangular(pivot, columns.mT, upper=False).mT
        own = half[:, self._rows[alive]]
        self.blocks[:, alive] -= own @ own.mT
        if len(rows) > self._half.shape[2]:
            self.matrices.baddbmm_(half, half.mT, alpha=-1)
        else:
            self._half[:, :, self._used : self._used + len(rows)] = half
            self._used += len(rows)
        if len(alive) * self._width < 0.8 * self.matrices.shape[1]:
            self._flush()
            left = self._rows[alive].flatten()
            self.matrices = _pick(self.matrices, left)
            self._place(len(self._rows), alive)

    def of(self, nodes: Tensor) -> Tensor:
        """The parts of a few nodes, shape [matrices, nodes x width, nodes x width]."""
        rows = self._rows[nodes].flatten()
        part = _pick(self.matrices, rows)
        if self._used:
            done = self._half[:, rows, : self._used]
            part.baddbmm_(done, done.mT, alpha=-1)
        return part

    def _columns(self, rows: Tensor) -> Tensor:
        columns = self.matrices.index_select(1, rows).mT
        if self._used:
            done = self._half[:, :, : self._used]
            columns = torch.baddbmm(columns, done, done[:, rows].mT, alpha=-1)
        return columns

    def _flush(self) -> None:
        if self._used:
            done = self._half[:, :, : self._used]
            self.matrices.baddbmm_(done, done.mT, alpha=-1)
            self._used = 0

    def _place(self, nodes: int, alive: Tensor) -> None:
        """Rows are those of the nodes in `alive`, one after the other."""
        self._rows = alive.new_full((nodes, self._width), -1)
        self._rows[alive] = torch.arange(len(alive) * self._width, device=alive.device).reshape(-1, self._width)
        self._half = self.matrices.new_empty(*self.matrices.shape[:2], _PENDING * self._width)
        self._used = 0


def _pick(matrices: Tensor, places: Tensor) -> Tensor:
    """The rows and columns of some places; some rows at a time, so that little stands beside the result."""
    found = matrices.new_empty(len(matrices), len(places), len(places))
    for rows, part in zip(places.split(_ROWS), found.split(_ROWS, 1), strict=True):
        part.copy_(take(matrices.index_select(1, rows), 2, places))
    return found


def _stack(matrices: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(matrices)) if len(matrices) > 1 else matrices[0][None]
