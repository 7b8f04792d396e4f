"""The work on one weight: its settings, and the findings of a pass through the data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mipp.runtime.distributed import gather

if TYPE_CHECKING:
    from mipp.refit.regression import Regression
    from mipp.refit.relu import Rectified
    from mipp.refit.targets import Target

Rows = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Inputs, residuals, folds and weights, as `Regression.update` takes them."""
_TOGETHER = 2048  # rows
_SHARES = (0.5, 0.25)  # of a change that are tried where the whole of it makes things worse

Run = Callable[[Callable[[int, dict[int, Tensor]], None]], None]
"""Hands the values of every batch to a function."""


@dataclass
class Best:
    """The weights with the least error so far.

    Attributes:
        tensors: The weights, which are changed in place.
    """

    tensors: Sequence[Tensor]
    _error: float = math.inf
    _copies: list[Tensor] = field(default_factory=list)

    def settle(self, find: Callable[[], float]) -> None:
        """Takes the weights as they are, or else half or a quarter of the way to them, if that is better; or the best.

        Args:
            find: The error of the weights as they are then.
        """
        error, last = find(), self._copies or self.tensors
        now = [tensor.clone() for tensor in self.tensors]
        for share in _SHARES if self._copies and not error < self._error else ():
            self._set([torch.lerp(*ends, share) for ends in zip(last, now, strict=True)])
            if (error := find()) < self._error:
                break
        if not self._copies or error < self._error:
            self._error, self._copies = error, [tensor.clone() for tensor in self.tensors]
        self._set(self._copies)

    def _set(self, values: Sequence[Tensor]) -> None:
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor.copy_(value)


@dataclass(frozen=True)
class Work:
    """The way in which a weight is fitted.

    Attributes:
        target: The weight.
        count: Number of batches, from the first.
        blocks: Runs of inputs that are fitted one after the other.
        bias: Name of what takes the offset, "" if nothing does.
        bias_scale: What the offset is multiplied by there.
        rectified: Rows in front of a ReLU.
        best: The best weights so far, where a weight reads what it wrote.
        is_taught: Whether it reads what the dense network does.
    """

    target: "Target"
    count: int
    blocks: Sequence[slice]
    bias: str
    bias_scale: Tensor
    rectified: "Rectified | None"
    best: Best | None
    is_taught: bool = False


@dataclass
class Pass:
    """The findings of a pass.

    Attributes:
        columns: The inputs that are fitted.
        regression: Their regression.
        finite: For every use the batch, and whether all was finite there.
    """

    columns: slice
    regression: "Regression"
    finite: list[tuple[int, Tensor]] = field(default_factory=list)
    _waiting: list[Rows] = field(default_factory=list)

    def add(self, batch: int, rows: Rows, *, last: bool) -> None:
        """Adds rows of one use in a batch to the regression: those of uses with few rows, as of one step, together.

        Args:
            batch: Number of the batch.
            rows: The rows.
            last: Whether it is the last use in the batch.
        """
        self._waiting.append(rows)
        if last or sum(len(folds) for _, _, folds, _ in self._waiting) >= _TOGETHER:
            self.finite.append((batch, self.regression.update(*_together(self._waiting))))
            self._waiting = []

    @property
    def is_empty(self) -> bool:
        """True if no batch came this way."""
        return not sum(gather(len(self.finite)))

    def is_finite(self) -> bool:
        """True if all was finite in all processes; asks the device once."""
        own = not self.finite or bool(torch.stack([fine for _, fine in self.finite]).all())
        return all(gather(own))


def total(squared: Sequence[Tensor]) -> float:
    """The sum of the parts of a squared error in all processes; infinite where it is no number."""
    error = sum(gather(float(torch.stack(list(squared)).sum()) if squared else 0.0))
    return error if math.isfinite(error) else math.inf


def _together(parts: Sequence[Rows]) -> Rows:
    """The rows of several uses one after the other."""
    if len(parts) == 1:
        return parts[0]
    inputs, residuals, folds, weights = zip(*parts, strict=True)
    filled = [
        w if w is not None else f.new_ones(len(f), dtype=torch.float32) for w, f in zip(weights, folds, strict=True)
    ]
    whole = torch.cat(filled) if any(w is not None for w in weights) else None
    return torch.cat(inputs, 1), torch.cat(residuals, 1), torch.cat(folds), whole
