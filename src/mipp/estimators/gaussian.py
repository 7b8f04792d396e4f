r"""Gaussian mutual information in closed form, for every node at once.

With A the precision of X and K the precision of X given Y, the information that only the block U of X has about Y is

    I(X_U; Y | X_rest) = 1/2 (log det K_UU - log det A_UU),

and both matrices lose a block by the same rule (optimal brain surgeon, Hassibi & Stork 1993). That rule reads nothing
outside the features that may be removed, so only their part of A and K is kept. Y may carry a noise floor: without
one, a target that is linear in X has (almost) infinite information.
"""

import torch
from torch import Tensor

from mipp.errors import CalibrationError
from mipp.estimators.wilks import wilks_confidence

_RIDGE = 1e-10
_PENDING = 32
_LEAST_RESIDUAL = 1e-5  # far above the ridge, or copies would look like ways to average it out


class GaussianInformation:
    r"""I(X_S; Y + noise) of jointly Gaussian X and Y, where S is a set of nodes and each node a block of features.

    Args:
        xx: Covariance of the features, shape [features, features].
        xy: Covariance of features and target, shape [features, targets].
        yy: Covariance of the target, shape [targets, targets].
        blocks: Features of every node, shape [nodes, features per node]. Features in no block are always available.
        noise: Variance of the noise added to each target, shape [targets]; or its covariance, shape [targets, targets].
            The inverse of the covariance is a metric of the target: where it is small, information tends to half the
            squared error in that metric.
        samples: Number of samples behind the covariances, for `confidence`.

    All tensors are on one device, where the work is done; what is returned is on the CPU.
    """

    def __init__(self, xx: Tensor, xy: Tensor, yy: Tensor, blocks: Tensor, noise: Tensor, samples: int) -> None:
        spread = _spread(xx)
        self.num_nodes = len(blocks)
        self.samples = samples
        self._xx = xx.double() / spread[:, None] / spread[None, :]
        noise = noise.double()
        noisy = yy.double() + (noise if noise.ndim == 2 else torch.diag(noise))
        self._xy = xy.double() @ _whitening(noisy) / spread[:, None]
        self._blocks = blocks.to(xx.device)
        self._alive = torch.ones(self.num_nodes, dtype=torch.bool, device=xx.device)
        self._refresh()

    def marginal(self) -> Tensor:
        own = self._xx[self._blocks[:, :, None], self._blocks[:, None, :]]
        cross = self._xy[self._blocks]
        own = own + _RIDGE * _eye(own.shape[-1], own)
        return -0.5 * _log_det_plus_one(own, -cross @ cross.mT).cpu()

    def losses(self) -> Tensor:
        alive = torch.nonzero(self._alive).flatten()
        out = self._xx.new_full((self.num_nodes,), torch.inf)
        out[alive] = self._losses_of(alive)
        return out.cpu()

    def loss(self, node: int) -> float:
        return float(self._losses_of(torch.tensor([node], device=self._xx.device)))

    def remove(self, node: int) -> None:
        self._alive[node] = False
        alive = torch.nonzero(self._alive).flatten()
        for precision in (self._a, self._k):
            precision.remove(node, alive)
        self._stale += self._blocks.shape[1]
        if len(alive) and self._stale > max(self._fresh // 2, 64):
            self._refresh()

    def confidence(self, node: int, margin: float = 0.0) -> float:
        """One minus the p-value of Wilks' test that the node adds at most `margin` nats.

        Exact for independent Gaussian samples without a noise floor where Rao's F is; the floor makes it cautious.

        Raises:
            CalibrationError: There are too few samples for the test.
        """
        features = int((self._xx.diagonal()[self._remaining()] > 0).sum())
        targets = self._xy.shape[1]
        freedom = self.samples - 1 - features
        if targets == 0 and self.samples > 1:
            return 0.0
        if freedom < targets or self.samples < 2:
            raise CalibrationError(
                f"{self.samples} samples are too few to test {features} features against {targets} targets; expected "
                f"at least {features + targets + 1}. Pass more (mipp.Calibration(batches, max_samples=...)), or a "
                "budget instead of a confidence."
            )
        return wilks_confidence(self.loss(node), self._blocks.shape[1], targets, freedom, self.samples, margin)

    def total(self) -> float:
        """I(X_S; Y + noise) of all features still there, in nats."""
        left = self._remaining()
        xx, xy = self._xx[left][:, left] + _RIDGE * _eye(len(left), self._xx), self._xy[left]
        return -0.5 * float(torch.logdet(_residual(xy, torch.linalg.solve(xx, xy))))

    def _losses_of(self, nodes: Tensor) -> Tensor:
        a, k = self._a.blocks[nodes], self._k.blocks[nodes]
        return 0.5 * _log_det_plus_one(a, k - a)

    def _remaining(self) -> Tensor:
        gone = self._blocks[~self._alive].flatten()
        mask = torch.ones(len(self._xx), dtype=torch.bool, device=self._xx.device)
        mask[gone] = False
        return torch.nonzero(mask).flatten()

    def _refresh(self) -> None:
        """Factors what is left from scratch, and keeps what belongs to nodes."""
        left, alive = self._remaining(), torch.nonzero(self._alive).flatten()
        own = self._blocks[alive].flatten()
        row = left.new_full((len(self._xx),), -1)
        row[left] = torch.arange(len(left), device=left.device)
        xx = self._xx[left][:, left] + _RIDGE * _eye(len(left), self._xx)
        a = torch.cholesky_inverse(torch.linalg.cholesky(xx))
        xy = self._xy[left]
        b = a @ xy
        rest = torch.linalg.cholesky(_residual(xy, b))
        a, b = a[row[own]][:, row[own]], b[row[own]]
        half = torch.linalg.solve_triangular(rest, b.mT, upper=False)
        self._k = _Precision(torch.addmm(a, half.mT, half), alive, self._blocks.shape)
        self._a = _Precision(a, alive, self._blocks.shape)
        self._stale, self._fresh = 0, len(own)


class _Precision:
    """A precision matrix that loses one block of features after the other.

    Only the diagonal blocks are kept up to date; the rest waits until `_PENDING` removals can be done in one product.
    What belongs to nodes that are gone is dropped now and then.
    """

    def __init__(self, matrix: Tensor, alive: Tensor, shape: torch.Size) -> None:
        nodes, self._width = shape
        self._matrix = matrix
        self.blocks = matrix.new_zeros(nodes, self._width, self._width)
        self._place(nodes, alive)
        self.blocks[alive] = matrix[self._rows[alive][:, :, None], self._rows[alive][:, None, :]]

    def remove(self, node: int, alive: Tensor) -> None:
        """Down-dates by the rows of `node`; afterwards only the blocks of the nodes in `alive` are right."""
        rows = self._rows[node]
        done = self._half[:, : self._used]
        columns = self._matrix[rows].mT - done @ done[rows].mT
        pivot = torch.linalg.cholesky(columns[rows])
        half = torch.linalg.solve_triangular(pivot, columns.mT, upper=False).mT
        own = half[self._rows[alive]]
        self.blocks[alive] -= own @ own.mT
        self._half[:, self._used : self._used + self._width] = half
        self._used += self._width
        if self._used == self._half.shape[1]:
            self._flush(alive)

    def _flush(self, alive: Tensor) -> None:
        self._matrix.addmm_(self._half, self._half.mT, alpha=-1)
        self._used = 0
        if len(alive) * self._width < 0.8 * len(self._matrix):
            left = self._rows[alive].flatten()
            self._matrix = self._matrix.index_select(0, left).index_select(1, left)
            self._place(len(self._rows), alive)

    def _place(self, nodes: int, alive: Tensor) -> None:
        """Rows are those of the nodes in `alive`, one after the other."""
        self._rows = alive.new_full((nodes, self._width), -1)
        self._rows[alive] = torch.arange(len(alive) * self._width, device=alive.device).reshape(-1, self._width)
        self._half = self._matrix.new_empty(len(self._matrix), _PENDING * self._width)
        self._used = 0


def _spread(covariance: Tensor) -> Tensor:
    """Standard deviations, with one in place of zero."""
    spread = covariance.diagonal().double().clamp_min(0).sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _whitening(covariance: Tensor) -> Tensor:
    """A map to uncorrelated targets of unit variance; drops what is constant or repeats others; [targets, fewer]."""
    spread = _spread(covariance)
    values, vectors = torch.linalg.eigh(covariance / spread[:, None] / spread[None, :])
    live = values > 1e-10 * max(float(values[-1]), 0.0) + 1e-300
    white: Tensor = vectors[:, live] / values[live].sqrt() / spread[:, None]
    return white


def _residual(xy: Tensor, b: Tensor) -> Tensor:
    """Covariance of the white Y given X, kept away from zero where Y is a function of X."""
    rest = _eye(xy.shape[1], xy) - xy.mT @ b
    values, vectors = torch.linalg.eigh(0.5 * (rest + rest.mT))
    positive: Tensor = (vectors * values.clamp_min(_LEAST_RESIDUAL)) @ vectors.mT
    return positive


def _log_det_plus_one(base: Tensor, change: Tensor) -> Tensor:
    """log det(I + base^-1 change) for batches of positive definite `base`; the result is exact for small changes."""
    factor = torch.linalg.cholesky(base)
    half = torch.linalg.solve_triangular(factor, change, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    lower, _ = torch.linalg.cholesky_ex(_eye(base.shape[-1], base) + 0.5 * (whitened + whitened.mT))
    total: Tensor = 2 * lower.diagonal(dim1=-2, dim2=-1).clamp_min(1e-150).log().sum(-1)
    return total


def _eye(size: int, like: Tensor) -> Tensor:
    """The identity, in the type and on the device of another tensor."""
    return torch.eye(size, dtype=like.dtype, device=like.device)
