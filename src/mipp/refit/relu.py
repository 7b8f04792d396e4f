"""A second fit in front of a ReLU, which leaves out what the ReLU hides.

Where the dense network is negative, any negative output will do. With the first fit as it is, the residual is that of
the dense output where it is positive, what exceeds zero where it is not, and nothing where both are negative: an upper
bound of the error behind the ReLU that touches it, so that fitting this residual lowers the error (majorisation, as
Zhang et al., arXiv 1505.06798, do with auxiliary variables).
"""

from math import ceil

import torch
from torch import Tensor

from mipp.refit.regression import Fit, Regression
from mipp.refit.rows import make_outputs
from mipp.runtime.distributed import sum_shards
from mipp.runtime.tensor_store import Stored, TensorStore

_ROUNDING = 1e-6  # relative
_JUDGES = 8192  # rows, at most, by which fits are compared


class Rectified:
    """Rows of one layer, put away for the second fit.

    Args:
        scale: What a batch norm behind the layer multiplies its outputs by, shape [outputs] or [].
        inverse: Its inverse.
        store: Where the rows are kept.
    """

    def __init__(self, scale: Tensor, inverse: Tensor, store: TensorStore) -> None:
        self._scale, self._inverse = scale, inverse
        self._store, self._shelf = store, store.shelf()
        self._rows: list[Stored] = []
        self._count = 0

    def update(self, inputs: Tensor, missing: Tensor, wanted: Tensor, found: Tensor, folds: Tensor) -> None:
        """Adds rows.

        Args:
            inputs: Shape [groups, rows, inputs].
            missing: What the outputs of the layer lack, shape [rows, outputs].
            wanted: What the ReLU reads in the dense network, shape [rows, outputs].
            found: What it reads in the cut one.
            folds: As for `Regression.update`.
        """
        self._count += len(missing)
        self._rows.append(self._shelf.put([inputs, missing, wanted, found, folds]))

    def refine(self, first: Fit, regression: Regression) -> Fit:
        """Fits again, and returns the fit with the least error behind the ReLU: none, the first or the second.

        Fits that differ by rounding alone count as equal, and the first is then preferred, so that machines agree. The
        error is that of every so many rows, of all where they are few.
        """
        none = Fit(torch.zeros_like(first.change), torch.zeros_like(first.offset))
        errors, judges = first.change.new_zeros(3), []
        step = ceil(self._count / _JUDGES)
        for rows in self._rows:
            inputs, missing, wanted, found, folds = rows.load()
            scale, inverse = self._scale.to(found.dtype), self._inverse.to(found.dtype)
            made = apply_fit(first, inputs)
            reached = (found + made * scale).clamp_min_(0)
            some = inputs[:, ::step], wanted[::step].clamp_min(0), found[::step]
            errors[0] += _squared(some[2].clamp_min(0), some[1])
            errors[1] += _squared(reached[::step], some[1])
            judges.append(self._shelf.put([part.contiguous() for part in some]))
            change = torch.where(wanted > 0, 0, made.sub_(missing).addcmul_(reached, inverse, value=-1))
            regression.shift(inputs, by_group(change, len(inputs)), folds)
            rows.release()
        self._store.give_back()
        second = regression.solve_shifted()
        for judge in judges:
            inputs, bounded, found = judge.load()
            now = apply_fit(second, inputs).mul_(self._scale.to(found.dtype)).add_(found)
            errors[2] += _squared(now.clamp_min_(0), bounded)
            judge.release()
        by_choice = sum_shards(errors)[[1, 2, 0]]
        least = int((by_choice <= by_choice.min() * (1 + _ROUNDING)).int().argmax())
        return (first, second, none)[least]


def apply_fit(fit: Fit, inputs: Tensor) -> Tensor:
    """The outputs that a fit adds, shape [rows, groups x outputs]."""
    return make_outputs(inputs, fit.change.mT, fit.offset.flatten())


def by_group(outputs: Tensor, groups: int) -> Tensor:
    """Outputs [rows, groups x outputs] as [groups, rows, outputs]."""
    parts: Tensor = outputs.unflatten(1, (groups, -1)).transpose(0, 1)
    return parts


def _squared(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square_().sum(dtype=torch.float64)
