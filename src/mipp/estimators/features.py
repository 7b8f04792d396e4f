"""The covariance of features and what is made of it once for every target."""

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-10
"""Added to covariances in units of the spread before they are factored."""


@dataclass(frozen=True, eq=False)
class Features:
    """The covariance of features in units of their spread, and its inverse, which serve every target.

    Attributes:
        spread: Standard deviations, one in place of zero, shape [features].
        covariance: In units of the spread, shape [features, features].
        precision: Its inverse, with a small ridge, shape [features, features].
    """

    spread: Tensor
    covariance: Tensor
    precision: Tensor

    @classmethod
    def of(cls, xx: Tensor) -> "Features":
        """From a covariance, shape [features, features].

        Sums of rounded products may have negative eigenvalues. The covariance is then raised by a ridge of twice the
        largest of them, so that it and the covariance of any of the features are positive definite.
        """
        spread = spread_of(xx)
        scaled = (xx.double() / spread[:, None]).div_(spread)
        raised = scaled.clone()
        raised.diagonal().add_(RIDGE)
        factor, failed = torch.linalg.cholesky_ex(raised)
        if not failed:
            return cls(spread, scaled, torch.cholesky_inverse(factor))
        scaled.diagonal().sub_(2 * torch.linalg.eigvalsh(scaled)[0])
        return cls(spread, scaled, invert(scaled + RIDGE * eye(len(xx), scaled)))

    def with_target(self, weight: Tensor) -> Tensor:
        """Covariance with the targets Y = weight X, shape [features, targets]."""
        together: Tensor = self.spread[:, None] * (self.covariance @ (self.spread[:, None] * weight.mT))
        return together

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self.covariance.nbytes + self.precision.nbytes)


def spread_of(covariance: Tensor) -> Tensor:
    """Standard deviations, with one in place of zero."""
    spread = covariance.diagonal().double().clamp_min(0).sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def invert(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite matrix; directions that rounding has made negative are noise."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not bool(failed.any()):
        return torch.cholesky_inverse(factor)
    values, vectors = torch.linalg.eigh(matrix)
    positive: Tensor = (vectors / values.clamp_min(max(RIDGE, -float(values.min())))[..., None, :]) @ vectors.mT
    return positive


def eye(size: int, like: Tensor) -> Tensor:
    """The identity, in the type and on the device of another tensor."""
    return torch.eye(size, dtype=like.dtype, device=like.device)


def log_det_plus_one(base: Tensor, change: Tensor) -> Tensor:
    """log det(I + base^-1 change) for batches of positive definite `base`; the result is exact for small changes."""
    if base.shape[-1] == 1:
        return torch.log1p((change / base).clamp_min(-1 + 1e-15))[..., 0, 0]
    factor = torch.linalg.cholesky(base)
    half = torch.linalg.solve_triangular(factor, change, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    lower, _ = torch.linalg.cholesky_ex(eye(base.shape[-1], base) + 0.5 * (whitened + whitened.mT))
    total: Tensor = 2 * lower.diagonal(dim1=-2, dim2=-1).clamp_min(1e-150).log().sum(-1)
    return total
