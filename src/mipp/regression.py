"""Least squares from moments, with a ridge that samples held out choose."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mipp.activations import Moments

FOLDS = 4
RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


class Regression:
    """Regression of residuals on inputs: min over D of mean ‖r − Dx‖² + ridge · mean(x²) · ‖D‖².

    The change D is taken from what is there already, so that a large ridge leaves it as it is. Moments are kept apart
    for `FOLDS` runs of the rows of every batch; rows of one sample follow each other, so they are held out together.

    Args:
        inputs: Number of inputs.
        outputs: Number of residuals.
        centred: Whether an intercept is fitted too.
        device: Where the moments are.
    """

    def __init__(self, inputs: int, outputs: int, *, centred: bool, device: torch.device | None = None) -> None:
        self.inputs, self.centred = inputs, centred
        self.folds = [Moments(inputs + outputs, device) for _ in range(FOLDS)]

    def update(self, inputs: Tensor, residuals: Tensor) -> None:
        """Adds rows, shapes [rows, inputs] and [rows, outputs]."""
        rows = torch.cat([inputs, residuals], 1)
        for fold, part in zip(self.folds, rows.tensor_split(FOLDS), strict=True):
            fold.update(part)

    def silence(self, inputs: Tensor) -> None:
        """Gives these inputs no weight."""
        for fold in self.folds:
            fold.mean[inputs] = 0
            fold.scatter.index_fill_(0, inputs, 0).index_fill_(1, inputs, 0)

    def solve(self, ridge: float, without: int | None = None) -> tuple[Tensor, Tensor]:
        """The change, shape [inputs, outputs], and the mean residual that it leaves, shape [outputs].

        Args:
            ridge: Relative to the mean second moment of the inputs.
            without: A fold that is left out.
        """
        moments = self._merged(without)
        (xx, xr, _), mean = self._parts(moments), moments.mean
        penalty = ridge * xx.diagonal().mean() + 1e-300
        change = torch.linalg.solve(xx + penalty * torch.eye(self.inputs, dtype=xx.dtype, device=xx.device), xr)
        return change, mean[self.inputs :] - mean[: self.inputs] @ change

    def held_out_error(self, ridge: float) -> float:
        """Squared residual left on every fold by what the other folds give, summed over rows and outputs."""
        total = 0.0
        for number, fold in enumerate(self.folds):
            change, offset = self.solve(ridge, number)
            (xx, xr, rr), mean = self._parts(fold), fold.mean
            left = rr - 2 * (change * xr).sum() + (change * (xx @ change)).sum()
            if self.centred:
                left = left + (mean[self.inputs :] - mean[: self.inputs] @ change - offset).square().sum()
            total += fold.count * float(left)
        return total

    def _merged(self, without: int | None) -> Moments:
        merged = Moments(len(self.folds[0].mean), self.folds[0].mean.device)
        for number, fold in enumerate(self.folds):
            if number != without:
                merged.merge(fold)
        return merged

    def _parts(self, moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
        """Second moments of the inputs, of inputs and residuals, and of the residuals (summed)."""
        second, n = moments.covariance if self.centred else moments.raw, self.inputs
        return second[:n, :n], second[:n, n:], second[n:, n:].diagonal().sum()


def best_ridge(regressions: Sequence[Regression]) -> float:
    """The ridge of `RIDGES` that leaves the least on samples held out, in all regressions together.

    Candidates are tried in ascending order until the error rises. Where rows are too few to hold any out, it is the
    largest.
    """
    if any(fold.count == 0 for fold in regressions[0].folds):
        return RIDGES[-1]
    best, least = RIDGES[-1], math.inf
    for ridge in RIDGES:
        error = sum(regression.held_out_error(ridge) for regression in regressions)
        if not error < least:
            break
        best, least = ridge, error
    return best
