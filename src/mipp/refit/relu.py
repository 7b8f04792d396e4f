"""A second fit in front of a ReLU, which leaves out what the ReLU hides.

Where the dense network is negative, any negative output will do. With the first fit as it is, the residual is that of
the dense output where it is positive, what exceeds zero where it is not, and nothing where both are negative: an upper
bound of the error behind the ReLU that touches it, so that fitting this residual lowers the error (majorisation, as
Zhang et al., arXiv 1505.06798, do with auxiliary variables).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mipp.refit.regression import Fit, Regression
from mipp.runtime.distributed import gather
from mipp.runtime.tensor_store import Stored, TensorStore


class Rectified:
    """Rows of one layer, put away for the second fit.

    Args:
        scale: What a batch norm behind the layer multiplies its outputs by, shape [outputs] or [].
        inverse: Its inverse.
        store: Where the rows are kept.
    """

    def __init__(self, scale: Tensor, inverse: Tensor, store: TensorStore) -> None:
        self._scale, self._inverse = scale, inverse
        self._shelf = store.shelf()
        self._rows: list[Stored] = []

    def update(self, inputs: Tensor, missing: Tensor, wanted: Tensor, found: Tensor, folds: Tensor) -> None:
        """Adds rows.

        Args:
            inputs: Shape [groups, rows, inputs].
            missing: What the outputs of the layer lack, shape [rows, outputs].
            wanted: What the ReLU reads in the dense network, shape [rows, outputs].
            found: What it reads in the cut one.
            folds: As for `Regression.update`.
        """
        self._rows.append(self._shelf.put([inputs, missing, wanted, found, folds]))

    def refine(self, first: Sequence[Fit], regressions: Sequence[Regression], ridge: float) -> list[Fit]:
        """Fits again, and returns the fit with the least error behind the ReLU: none, the first or the second."""
        for inputs, missing, wanted, found, folds in self._load():
            made = _apply_fits(first, inputs)
            excess = (found + made * self._scale).clamp_min(0)
            change = torch.where(wanted > 0, 0, made - missing - excess * self._inverse).double()
            for regression, x, part in zip(regressions, inputs, _by_group(change, inputs), strict=True):
                regression.shift(x.double(), part, folds)
        none = [Fit(torch.zeros_like(fit.change), torch.zeros_like(fit.offset)) for fit in first]
        best = min(list(first), [regression.pool().solve(ridge) for regression in regressions], none, key=self._error)
        for rows in self._rows:
            rows.release()
        return best

    def _error(self, fits: Sequence[Fit]) -> float:
        total = 0.0
        for inputs, _, wanted, found, _ in self._load():
            now = found + _apply_fits(fits, inputs) * self._scale
            total += float((now.clamp_min(0) - wanted.clamp_min(0)).square().sum(dtype=torch.float64))
        return sum(gather(total))

    def _load(self) -> Iterator[list[Tensor]]:
        return (rows.load() for rows in self._rows)


def _apply_fits(fits: Sequence[Fit], inputs: Tensor) -> Tensor:
    """The change of the outputs that fits make, shape [rows, outputs]."""
    parts = ((fit.change.to(x.dtype), fit.offset.to(x.dtype), x) for fit, x in zip(fits, inputs, strict=True))
    return torch.cat([x @ change + offset for change, offset, x in parts], 1)


def _by_group(outputs: Tensor, inputs: Tensor) -> Tensor:
    parts: Tensor = outputs.unflatten(1, (len(inputs), -1)).transpose(0, 1)
    return parts
