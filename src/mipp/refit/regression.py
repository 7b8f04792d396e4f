"""Least squares from moments, with a ridge that samples held out choose."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mipp.statistics.observing import Moments

FOLDS = 2
RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


def folds_of(rows: int, samples: int, first: int) -> Tensor:
    """The fold of every row of a batch: by the number of its sample, so that it does not depend on the batches.

    Args:
        rows: Rows of the batch; those of one sample follow each other.
        samples: Samples of the batch.
        first: Number of its first sample.
    """
    return (first + torch.arange(rows) * samples // max(rows, 1)) % FOLDS


@dataclass(frozen=True)
class Fit:
    """The change of a weight, transposed, shape [inputs, outputs], and of the outputs, shape [outputs]."""

    change: Tensor
    offset: Tensor


class Regression:
    """Regression of residuals on inputs: min over D of mean ‖r − Dx‖² + ridge · mean(x²) · ‖D‖².

    The change D is added to what is there already, so that a large ridge leaves it as it is. Moments are kept apart for
    each of `FOLDS` folds.

    Args:
        inputs: Number of inputs.
        outputs: Number of residuals.
        centred: Whether an intercept is fitted too.
        device: Where the moments are.
    """

    def __init__(self, inputs: int, outputs: int, *, centred: bool, device: torch.device | None = None) -> None:
        self.inputs, self.centred = inputs, centred
        self.folds = [Moments(inputs + outputs, device) for _ in range(FOLDS)]
        self.silent = torch.empty(0, dtype=torch.long, device=device)

    def update(self, inputs: Tensor, residuals: Tensor, folds: Tensor) -> None:
        """Adds rows, shapes [rows, inputs] and [rows, outputs], each to its fold, shape [rows]."""
        rows = torch.cat([inputs, residuals], 1)
        for number, fold in enumerate(self.folds):
            fold.update(rows[folds == number])

    def shift(self, inputs: Tensor, by: Tensor, folds: Tensor) -> None:
        """Changes the residuals of rows that were added before; held-out errors are lost."""
        inputs = inputs.index_fill(1, self.silent, 0)
        for number, fold in enumerate(self.folds):
            x, change = inputs[folds == number] - fold.mean[: self.inputs], by[folds == number]
            fold.scatter[: self.inputs, self.inputs :] += x.mT @ change
            fold.mean[self.inputs :] += change.sum(0) / max(fold.count, 1)

    def silence(self, inputs: Tensor) -> None:
        """Gives these inputs no weight."""
        self.silent = inputs
        for fold in self.folds:
            fold.mean[inputs] = 0
            fold.scatter.index_fill_(0, inputs, 0).index_fill_(1, inputs, 0)

    def pool(self) -> "Regression":
        """The regression on the rows of all processes, where data are sharded."""
        whole = copy.copy(self)
        whole.folds = [fold.pool() for fold in self.folds]
        return whole

    def solve(self, ridge: float, without: int | None = None) -> Fit:
        """The change, and with an intercept the offset, else zero.

        Args:
            ridge: Relative to the mean second moment of the inputs.
            without: A fold that is left out.
        """
        moments = self._merge(without)
        (xx, xr, _), mean = self._parts(moments), moments.mean
        penalty = ridge * xx.diagonal().mean() + 1e-300
        change = torch.linalg.solve(xx + penalty * torch.eye(self.inputs, dtype=xx.dtype, device=xx.device), xr)
        offset = mean[self.inputs :] - mean[: self.inputs] @ change
        return Fit(change, offset if self.centred else torch.zeros_like(offset))

    def held_out_error(self, ridge: float) -> float:
        """Squared residual left on every fold by what the other folds give, summed over rows and outputs."""
        total = 0.0
        for number, fold in enumerate(self.folds):
            fit = self.solve(ridge, number)
            (xx, xr, rr), mean = self._parts(fold), fold.mean
            left = rr - 2 * (fit.change * xr).sum() + (fit.change * (xx @ fit.change)).sum()
            if self.centred:
                left = left + (mean[self.inputs :] - mean[: self.inputs] @ fit.change - fit.offset).square().sum()
            total += fold.count * float(left)
        return total

    def _merge(self, without: int | None) -> Moments:
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
