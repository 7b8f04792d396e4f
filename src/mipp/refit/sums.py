"""Sums over rows of inputs and residuals, from which a regression is solved."""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from mipp.refit.folds import FOLDS
from mipp.runtime.distributed import is_sharded, sum_shards
from mipp.statistics.products import add_products, complete, times_transposed

_NARROW = 64  # inputs that are solved for at once in any case
_BLOCK = 1024  # rows, at least, that are multiplied at once


@dataclass(frozen=True)
class CrossMoments:
    """Means of inputs and residuals and their second moments about the means, divided by the count.

    Attributes:
        count: Number of rows, or the sum of their weights.
        x: Means of the inputs, shape [groups, inputs].
        r: Means of the residuals, shape [groups, outputs].
        xx: Second moments of the inputs, shape [groups, inputs, inputs].
        xr: Those of inputs with residuals, shape [groups, inputs, outputs].
        rr: Those of the residuals with themselves, summed, shape [groups].
    """

    count: float
    x: Tensor
    r: Tensor
    xx: Tensor
    xr: Tensor
    rr: Tensor

    def merge(self, other: "CrossMoments") -> "CrossMoments":
        """The moments of both sets of rows (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        own, far = self.count / (count or 1), other.count / (count or 1)
        x, r, both = other.x - self.x, other.r - self.r, own * far
        return CrossMoments(
            count,
            self.x + far * x,
            self.r + far * r,
            (own * self.xx).add_(other.xx, alpha=far).baddbmm_(x[:, :, None], x[:, None], alpha=both),
            (own * self.xr).add_(other.xr, alpha=far).baddbmm_(x[:, :, None], r[:, None], alpha=both),
            own * self.rr + far * other.rr + both * r.square().sum(1),
        )

    def about_zero(self) -> "CrossMoments":
        """The same with second moments about zero."""
        return CrossMoments(
            self.count,
            self.x,
            self.r,
            torch.baddbmm(self.xx, self.x[:, :, None], self.x[:, None]),
            torch.baddbmm(self.xr, self.x[:, :, None], self.r[:, None]),
            self.rr + self.r.square().sum(1),
        )


class RowSums:
    """Sums over rows; the rows themselves while they are fewer than the inputs.

    Rows are multiplied in their own type and summed in float64.

    Attributes:
        rows: Number of rows.
        inputs: Their inputs about a fixed point, one tensor of shape [groups, rows, inputs] per update, as long as they
            wait to be multiplied.
        residuals: Their residuals. Rows that have a weight, and their residuals, are multiplied by its root.
        roots: The roots of the weights, one tensor of shape [rows] per update.
        summed: Whether any were multiplied.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, device: torch.device | None) -> None:
        self.rows, self.summed = 0, False
        self.inputs: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.roots: list[Tensor] = []
        self._sizes, self._device, self._waiting, self._shifted = (groups, inputs, outputs), device, 0, 0
        self._x, self._r, self._rr = self._zeros(inputs), self._zeros(outputs), self._zeros()
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._xx = self._xr = self._zeros(0, 0)

    def add(self, inputs: Tensor, residuals: Tensor, weights: Tensor | None = None) -> Tensor:
        """Adds rows, which are kept, with weights of shape [rows], else of 1; returns whether all are finite."""
        rows = inputs.shape[1]
        roots = inputs.new_ones(rows) if weights is None else weights.to(inputs).sqrt()
        if weights is not None:
            inputs, residuals = inputs * roots[:, None], residuals * roots[:, None]
        x, r = (inputs.sum(1), residuals.sum(1)) if weights is None else (roots @ inputs, roots @ residuals)
        self._x += x
        self._r += r
        self._rr += residuals.square().sum((1, 2))
        self.rows += rows
        self._count += rows if weights is None else roots.double().square().sum()
        self.inputs.append(inputs)
        self.residuals.append(residuals)
        self.roots.append(roots)
        self._waiting += inputs.shape[1]
        if self._waiting >= max(self._sizes[1], _BLOCK):
            self.multiply()
        return x.isfinite().all() & r.isfinite().all()

    def multiply(self) -> None:
        """Multiplies the rows that wait."""
        _, inputs, outputs = self._sizes
        if not self.summed:
            self._xx, self._xr, self.summed = self._zeros(inputs, inputs), self._zeros(inputs, outputs), True
        if self._waiting:
            x, r, _ = self.waiting()
            add_products(self._xx, x, self._xr, r)
        self.inputs, self.residuals, self.roots, self._waiting = [], [], [], 0

    def waiting(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs and residuals of the rows that wait, shapes [groups, rows, ...], and the roots of their weights."""
        if not self.inputs:
            groups, inputs, outputs = self._sizes
            return self._x.new_zeros(groups, 0, inputs), self._x.new_zeros(groups, 0, outputs), self._x.new_zeros(0)
        x, r = (rows[0] if len(rows) == 1 else torch.cat(rows, 1) for rows in (self.inputs, self.residuals))
        return x, r, torch.cat(self.roots)

    def shift(self, inputs: Tensor, by: Tensor, silent: Tensor) -> None:
        """Changes the residuals of rows that come in the order in which they were added; silent inputs are zero."""
        self._r += by.sum(1)
        if self.summed:
            self._xr += times_transposed(inputs.mT, by.mT).index_fill_(1, silent, 0)
        else:
            self.residuals[self._shifted] = self.residuals[self._shifted] + by
            self._shifted = (self._shifted + 1) % len(self.residuals)

    def cross(self) -> tuple[Tensor, Tensor]:
        """Sums of the residuals, and of their products with the inputs about the fixed point."""
        self.multiply()
        return self._r, self._xr

    def silence(self, inputs: Tensor) -> None:
        """Sets these inputs to zero."""
        for tensor in (self._x, *([self._xx, self._xr] if self.summed else ())):
            tensor.index_fill_(1, inputs, 0)
        for tensor in (*([self._xx] if self.summed else ()), *self.inputs):
            tensor.index_fill_(2, inputs, 0)

    def moments(self, about: Tensor) -> CrossMoments:
        """Moments of the rows of all processes, of inputs about the same point.

        Args:
            about: What was subtracted from the inputs here, shape [groups, inputs].
        """
        self.multiply()
        count = float(self._count)
        total = count or 1
        x, r = self._x / total, self._r / total
        xx = complete(torch.baddbmm(self._xx, x[:, :, None], x[:, None], beta=1 / total, alpha=-count / total))
        xr = torch.baddbmm(self._xr, x[:, :, None], r[:, None], beta=1 / total, alpha=-count / total)
        rr = self._rr / total - count / total * r.square().sum(1)
        own = CrossMoments(count, x + about, r, xx, xr, rr)
        return own if not is_sharded() else _pool(own)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self._sizes[0], *shape, dtype=torch.float64, device=self._device)


def _pool(own: CrossMoments) -> CrossMoments:
    """The moments of the rows of all processes: their sums about the common means."""
    parts = [own.x * own.count, own.r * own.count]
    sums = sum_shards(torch.cat([*parts, own.x.new_full((len(own.x), 1), own.count)], 1))
    count = float(sums[0, -1])
    x, r = (sums[:, :-1] / (count or 1)).split([own.x.shape[1], own.r.shape[1]], 1)
    dx, dr = own.x - x, own.r - r
    xx = own.xx.baddbmm(dx[:, :, None], dx[:, None]) * own.count
    xr = own.xr.baddbmm(dx[:, :, None], dr[:, None]) * own.count
    rr = (own.rr + dr.square().sum(1)) * own.count
    xx, xr, rr = (sum_shards(part) / (count or 1) for part in (xx, xr, rr))
    return CrossMoments(count, x, r, xx, xr, rr)


def runs_within(limit: float, rows: float, inputs: int, outputs: int, groups: int) -> list[slice]:
    """Runs of inputs of which one after the other is solved for within so many bytes, as few as can be.

    Args:
        limit: The bytes.
        rows: Number of rows.
        inputs: Number of inputs, in each group.
        outputs: Number of outputs, in each group.
        groups: Number of regressions of that size.
    """
    count = 1
    while bytes_to_solve(rows, ceil(inputs / count), outputs, groups) > limit and inputs > _NARROW * count:
        count *= 2
    size = ceil(inputs / count)
    return [slice(start, min(start + size, inputs)) for start in range(0, inputs, size)]


def bytes_to_solve(rows: float, inputs: int, outputs: int, groups: int) -> float:
    """Memory that regressions take, of sums over rows, or of rows that are fewer than the inputs."""
    if rows < inputs:
        kept, solved = 8 * (inputs + outputs), 16 * outputs + 32 * rows
        return groups * (rows * (kept + solved) + 16 * inputs * outputs)
    return 8 * (FOLDS * groups + 5) * inputs * (inputs + outputs)
