r"""Gaussian mutual information in closed form, for every node at once.

With A the precision of X and K the precision of X given Y, the information that only the block U of X has about Y is

    I(X_U; Y | X_rest) = 1/2 (log det K_UU - log det A_UU),

and both matrices lose a block by the same rule (optimal brain surgeon, Hassibi & Stork 1993). Y carries a noise floor:
without one a target that is linear in X would have infinite information.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from scipy import stats
from torch import Tensor

_RIDGE = 1e-9
_PENDING = 32


class GaussianInformation:
    r"""I(X_S; Y + noise) of jointly Gaussian X and Y, where S is a set of nodes and each node a block of features.

    Args:
        xx: Covariance of the features, shape [features, features].
        xy: Covariance of features and target, shape [features, targets].
        yy: Covariance of the target, shape [targets, targets].
        blocks: Features of every node, shape [nodes, features per node]. Features in no block are always available.
        noise: Variance of the noise added to each target, shape [targets].
        samples: Number of samples behind the covariances, for `confidence`.
    """

    def __init__(self, xx: Tensor, xy: Tensor, yy: Tensor, blocks: Tensor, noise: Tensor, samples: int) -> None:
        scale = xx.diagonal().clamp_min(0).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale)).double()
        live = torch.nonzero((yy.diagonal() + noise) > 0).flatten()
        self.num_nodes = len(blocks)
        self.samples = samples
        self._xx = xx.double() / scale[:, None] / scale[None, :]
        self._xy = xy.double()[:, live] / scale[:, None]
        self._yy = (yy.double() + torch.diag(noise.double()))[live][:, live]
        self._blocks = blocks
        self._alive = torch.ones(self.num_nodes, dtype=torch.bool)
        self._refresh()

    def marginal(self) -> Tensor:
        inverse = torch.linalg.pinv(self._yy, hermitian=True)
        own = self._xx[self._blocks[:, :, None], self._blocks[:, None, :]]
        cross = self._xy[self._blocks]
        own = own + _RIDGE * torch.eye(own.shape[-1], dtype=own.dtype)
        return -0.5 * _log_det_plus_one(own, -cross @ inverse @ cross.mT)

    def losses(self) -> Tensor:
        alive = torch.nonzero(self._alive).flatten()
        out = torch.full((self.num_nodes,), torch.inf, dtype=torch.float64)
        a, k = self._a.blocks[alive], self._k.blocks[alive]
        out[alive] = 0.5 * _log_det_plus_one(a, k - a)
        return out

    def remove(self, node: int) -> None:
        self._alive[node] = False
        alive = torch.nonzero(self._alive).flatten()
        for precision in (self._a, self._k):
            precision.remove(node, alive)
        self._stale += self._blocks.shape[1]
        if len(alive) and self._stale > max(len(self._a.matrix) // 4, 64):
            self._refresh()

    def confidence(self, node: int) -> float:
        """One minus the p-value of Wilks' test that the node adds nothing.

        Exact F for one feature per node, independent samples and no noise floor; an approximation otherwise.
        """
        statistic = 2 * float(self.losses()[node])
        width, targets = self._blocks.shape[1], len(self._yy)
        freedom = self.samples - 1 - len(self._remaining())
        if freedom <= targets:
            return 0.0
        if width == 1:
            ratio = float(torch.expm1(torch.tensor(statistic)))
            return float(stats.f.cdf(ratio * (freedom - targets + 1) / targets, targets, freedom - targets + 1))
        return float(stats.chi2.cdf((freedom - (targets - width + 1) / 2) * statistic, targets * width))

    def total(self) -> float:
        """I(X_S; Y + noise) of all features still there, in nats."""
        left = self._remaining()
        xx, xy = self._xx[left][:, left] + _RIDGE * torch.eye(len(left), dtype=torch.float64), self._xy[left]
        rest = self._yy - xy.mT @ torch.linalg.solve(xx, xy)
        return 0.5 * float(torch.logdet(self._yy) - torch.logdet(rest))

    def _remaining(self) -> Tensor:
        gone = self._blocks[~self._alive].flatten()
        mask = torch.ones(len(self._xx), dtype=torch.bool)
        mask[gone] = False
        return torch.nonzero(mask).flatten()

    def _refresh(self) -> None:
        """Factors what is left from scratch and drops the rows of removed features."""
        left = self._remaining()
        row = torch.full((len(self._xx),), -1)
        row[left] = torch.arange(len(left))
        xx = self._xx[left][:, left] + _RIDGE * torch.eye(len(left), dtype=torch.float64)
        a = torch.cholesky_inverse(torch.linalg.cholesky(xx))
        xy = self._xy[left]
        b = a @ xy
        rest = self._yy - xy.mT @ b
        rest = 0.5 * (rest + rest.mT) + 1e-12 * torch.diag(self._yy.diagonal())
        rows = row[self._blocks]
        self._a = _Precision(a, rows)
        self._k = _Precision(a + b @ torch.linalg.solve(rest, b.mT), rows)
        self._stale = 0


class _Precision:
    """A precision matrix that loses one block of features after the other.

    Only the diagonal blocks are kept up to date; the rest waits until `_PENDING` removals can be done in one product.
    """

    def __init__(self, matrix: Tensor, rows: Tensor) -> None:
        self.matrix, self.rows = matrix, rows
        self.blocks = matrix[rows[:, :, None], rows[:, None, :]]
        self._half = matrix.new_empty(len(matrix), _PENDING * rows.shape[1])
        self._used = 0

    def remove(self, node: int, alive: Tensor) -> None:
        """Down-dates by the rows of `node`; afterwards only the blocks of the nodes in `alive` are right."""
        rows, width = self.rows[node], self.rows.shape[1]
        done = self._half[:, : self._used]
        columns = self.matrix[rows].mT - done @ done[rows].mT
        pivot = torch.linalg.cholesky(columns[rows])
        half = torch.linalg.solve_triangular(pivot, columns.mT, upper=False).mT
        own = half[self.rows[alive]]
        self.blocks[alive] -= own @ own.mT
        self._half[:, self._used : self._used + width] = half
        self._used += width
        if self._used == self._half.shape[1]:
            self.matrix.addmm_(self._half, self._half.mT, alpha=-1)
            self._used = 0


def _log_det_plus_one(base: Tensor, change: Tensor) -> Tensor:
    """log det(I + base^-1 change) for batches of positive definite `base`; the result is exact for small changes."""
    factor = torch.linalg.cholesky(base)
    half = torch.linalg.solve_triangular(factor, change, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    eye = torch.eye(base.shape[-1], dtype=base.dtype)
    lower, _ = torch.linalg.cholesky_ex(eye + 0.5 * (whitened + whitened.mT))
    total: Tensor = 2 * lower.diagonal(dim1=-2, dim2=-1).clamp_min(1e-150).log().sum(-1)
    return total


class _Part(Protocol):
    num_nodes: int

    def marginal(self) -> Tensor: ...
    def losses(self) -> Tensor: ...
    def remove(self, node: int) -> None: ...
    def confidence(self, node: int) -> float: ...


class SumInformation:
    """The sum of what the same nodes carry to several readers (in nats; shared information counts for each)."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        self.num_nodes = parts[0].num_nodes

    def marginal(self) -> Tensor:
        return torch.stack([p.marginal() for p in self.parts]).sum(0)

    def losses(self) -> Tensor:
        return torch.stack([p.losses() for p in self.parts]).sum(0)

    def remove(self, node: int) -> None:
        for part in self.parts:
            part.remove(node)

    def confidence(self, node: int) -> float:
        """Bonferroni over the readers: sure that at least one of them loses something."""
        return max(0.0, 1 - len(self.parts) * (1 - max(p.confidence(node) for p in self.parts)))
