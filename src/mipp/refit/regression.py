"""Least squares from sums over rows, with a ridge that samples held out choose.

Rows are multiplied in the type they have (those of 16 bits in float32) and summed in float64. While there are fewer
rows than inputs, the rows are kept and solved for instead, which gives the same change (the dual form).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Protocol

import torch
from torch import Tensor

from mipp.refit.folds import FOLDS, Choose, by_fold
from mipp.refit.sums import CrossMoments, RowSums
from mipp.runtime.distributed import is_sharded, sum_shards
from mipp.runtime.indexing import take
from mipp.statistics.extremes import are_extreme, find_constant

RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
FIRST_RIDGE = 0.1
_PROBES = 32  # random combinations of the outputs by which ridges are compared
_WIDE = 1024  # inputs from which on only one fold is held out
_PIECE = 1024  # rows that stay in the cache while they are moved and turned


@dataclass(frozen=True)
class Fit:
    """An addition to a weight, transposed, and to the outputs.

    Attributes:
        change: Shape [groups, inputs, outputs].
        offset: Shape [groups, outputs]; zero without an intercept.
    """

    change: Tensor
    offset: Tensor


class Solver(Protocol):
    """Solves min over D of mean ‖r − Dx‖² + ridge · mean(x²) · ‖D‖² for every group at once."""

    @property
    def can_hold_out(self) -> bool:
        """True if every fold has rows."""

    def solve(self, ridge: float) -> Fit:
        """The change, and with an intercept the offset."""

    def solve_again(self, folds: Sequence[RowSums]) -> Fit:
        """The fit to residuals that have changed since `solve`, at its ridge and by its factors.

        Args:
            folds: The same rows, with the residuals as they are now.
        """

    def held_out_error(self, ridge: float) -> Tensor:
        """Squared residual left on every fold by what the others give, summed over rows, outputs and groups.

        With very many inputs it is that of the first fold alone. Of many outputs it is estimated, up to a constant,
        from random combinations, the same for all ridges. Shape [].
        """


class Regression:
    """Regression of residuals on inputs; sums are kept apart for each of `FOLDS` folds.

    The change D is added to what is there already, so that a large ridge leaves it as it is.

    Args:
        groups: Number of regressions, all of one size.
        inputs: Number of inputs of each.
        outputs: Number of residuals of each.
        centred: Whether an intercept is fitted too.
        device: Where the sums are.
    """

    def __init__(
        self, groups: int, inputs: int, outputs: int, *, centred: bool, device: torch.device | None = None
    ) -> None:
        self._inputs, self._centred = inputs, centred
        self._about = torch.zeros(groups, inputs, device=device)
        self._folds = [RowSums(groups, inputs, outputs, device) for _ in range(FOLDS)]
        self._silent = torch.empty(0, dtype=torch.long, device=device)
        self._begun, self._widest = False, self._about.dtype
        self._solver: Solver | None = None

    def update(self, inputs: Tensor, residuals: Tensor, folds: Tensor, weights: Tensor | None = None) -> Tensor:
        """Adds rows, each to its fold.

        Args:
            inputs: Shape [groups, rows, inputs].
            residuals: Shape [groups, rows, outputs].
            folds: Shape [rows].
            weights: Of the squared error in each row, shape [rows]; None: 1.

        Returns:
            Whether all are finite, shape [].
        """
        if not self._begun:
            self._begun, kind = True, torch.promote_types(inputs.dtype, torch.float32)
            self._about = inputs.mean(1, dtype=kind) if self._centred else self._about.to(kind)
            self._widest = kind
        kind, added = self._kind_of(inputs, residuals), []
        self._widest = torch.promote_types(kind, self._widest)
        for fold, chosen in zip(self._folds, by_fold(folds, inputs.device), strict=True):
            own = None if weights is None else chosen(weights, 0).flatten()
            added.append(fold.add(*self._rows(inputs, residuals, chosen, kind), own))
        return torch.stack(added).all()

    def shift(self, inputs: Tensor, by: Tensor, folds: Tensor) -> None:
        """Changes the residuals of all rows, in the order in which they were added; held-out errors are lost."""
        if all(fold.summed for fold in self._folds):  # in sums over all folds it does not matter where it is
            for some, change in zip(inputs.split(_PIECE, 1), by.split(_PIECE, 1), strict=True):
                about = some.to(self._widest) - self._about[:, None]
                self._folds[0].shift(about, change.to(self._widest), self._silent)
            return
        for fold, chosen in zip(self._folds, by_fold(folds, inputs.device), strict=True):
            fold.shift(*self._rows(inputs, by, chosen, self._widest), self._silent)

    def silence(self, inputs: Tensor) -> None:
        """Gives these inputs no weight."""
        self._silent = inputs
        for fold in self._folds:
            fold.silence(inputs)

    def solver(self) -> Solver:
        """Solves it on the rows of all processes, where data are sharded."""
        self._solver = self._make_solver()
        return self._solver

    def solve_shifted(self) -> Fit:
        """The fit after `shift`, at the ridge of the last one; what depends on the inputs alone is not made anew."""
        assert self._solver is not None
        return self._solver.solve_again(self._folds)

    def _make_solver(self) -> Solver:
        few = not any(fold.summed for fold in self._folds) and sum(fold.rows for fold in self._folds) < self._inputs
        if few and not is_sharded():
            return _ByRows([fold.waiting() for fold in self._folds], self._about, centred=self._centred)
        moments = [fold.moments(self._about) for fold in self._folds]
        return _BySums(moments, self._about, centred=self._centred)

    def _kind_of(self, inputs: Tensor, residuals: Tensor) -> torch.dtype:
        """The type in which rows are multiplied: one in which their products are finite and do not vanish."""
        return torch.float64 if are_extreme(inputs, residuals) else self._about.dtype

    def _rows(self, inputs: Tensor, residuals: Tensor, chosen: Choose, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Copies of some rows, inputs about the fixed point."""
        x, r = (chosen(rows, 1).to(kind) for rows in (inputs, residuals))
        return (x - self._about[:, None, None]).flatten(1, 2), r.flatten(1, 2)


class _BySums:
    """From second moments of every fold."""

    def __init__(self, folds: Sequence[CrossMoments], about: Tensor, *, centred: bool) -> None:
        self._folds, self._kind, self._about, self._centred = folds, about.dtype, about, centred
        self._fitted = [fold if centred else fold.about_zero() for fold in folds]
        self._scaled: dict[int, tuple[Tensor, Tensor]] = {}  # by fold held out: second moments of the others, and unit

    @property
    def can_hold_out(self) -> bool:
        return all(fold.count for fold in self._folds)

    def solve(self, ridge: float) -> Fit:
        self._scaled.clear()
        whole = reduce(CrossMoments.merge, self._folds)
        about = whole if self._centred else whole.about_zero()
        self._inverse = _Inverse(_add_to_diagonal(about.xx, _penalty(ridge, about, self._kind)))
        self._count, self._mean = whole.count, whole.x
        return self._fit(about.xr, whole.r)

    def solve_again(self, folds: Sequence[RowSums]) -> Fit:
        r, xr = (reduce(torch.add, parts) for parts in zip(*(fold.cross() for fold in folds), strict=True))
        about = self._about.double()
        if is_sharded():  # every process has a point of its own
            xr, r, about = sum_shards(xr + about[:, :, None] * r[:, None]), sum_shards(r), torch.zeros_like(about)
        r, xr = r / (self._count or 1), xr / (self._count or 1)
        if self._centred:
            xr = torch.baddbmm(xr, (self._mean - about)[:, :, None], r[:, None], alpha=-1)
        return self._fit(xr, r)

    def _fit(self, xr: Tensor, r: Tensor) -> Fit:
        change = self._inverse.times(xr)
        offset = r - (self._mean[:, None] @ change)[:, 0]
        return Fit(change, offset if self._centred else torch.zeros_like(offset))

    def held_out_error(self, ridge: float) -> Tensor:
        probes = _probes(self._folds[0].r, self._folds[0].r.shape[1])
        total = self._folds[0].x.new_zeros(())
        for number in range(_folds_held_out(self._folds[0].x.shape[1])):
            (other,) = (n for n in range(FOLDS) if n != number)
            rest, known = self._folds[other], self._fitted[other]
            fold, seen = self._folds[number], self._fitted[number]
            if number not in self._scaled:
                unit = _penalty(1.0, known, self._kind)[:, None, None]  # which may be no number of the type
                self._scaled[number] = (known.xx / unit).to(self._kind), unit
            scaled, unit = self._scaled[number]
            factor = torch.linalg.cholesky_ex(_add_to_diagonal(scaled, scaled.new_full((len(unit),), ridge)))
            change = torch.cholesky_solve((known.xr @ probes / unit).to(self._kind), factor.L).double()
            left = (change * (seen.xx @ change)).sum() + seen.rr.sum() - 2 * (change * (seen.xr @ probes)).sum()
            if self._centred:
                missed = (fold.r - rest.r) @ probes - ((fold.x - rest.x)[:, None] @ change)[:, 0]
                left = left + missed.square().sum()
            total = total + fold.count * torch.where((factor.info == 0).all(), left, math.inf)
        return total


class _ByRows:
    """From the rows, where they are fewer than the inputs.

    With rows C of inputs about their mean, the change is C^T (C C^T + penalty)^-1 r. Rows are multiplied by the roots
    of their weights: what is about the mean is then orthogonal to these roots.
    """

    def __init__(self, folds: Sequence[tuple[Tensor, Tensor, Tensor]], about: Tensor, *, centred: bool) -> None:
        self._x, self._r = (torch.cat([fold[place] for fold in folds], 1) for place in (0, 1))
        self._roots = torch.cat([roots for *_, roots in folds]).double()
        self._counts, self._about, self._centred = [x.shape[1] for x, *_ in folds], about, centred
        self._gram = (self._x @ self._x.mT).double()
        self._held_out: dict[int, tuple[Tensor, ...]] = {}  # by fold: what is the same for every ridge

    @property
    def can_hold_out(self) -> bool:
        return all(self._counts)

    def solve(self, ridge: float) -> Fit:
        self._held_out.clear()
        gram = _centre(self._gram, self._roots) if self._centred else self._gram
        self._inverse = _Inverse(_add_to_diagonal(gram, self._penalty(ridge, gram)))
        return self._fit(self._r.double())

    def solve_again(self, folds: Sequence[RowSums]) -> Fit:
        return self._fit(torch.cat([fold.waiting()[1] for fold in folds], 1).double())

    def _fit(self, r: Tensor) -> Fit:
        roots = self._roots
        half = self._inverse.times(r - _along(roots, r) if self._centred else r)
        # the columns of `half` are orthogonal to the roots where residuals are centred: inputs need not be
        change = (self._x.mT @ half.to(self._x.dtype)).double()
        if not self._centred:
            return Fit(change, torch.zeros_like(r[:, 0]))
        total = roots.square().sum()
        mean = roots @ self._x.double() / total + self._about
        return Fit(change, roots @ r / total - (mean[:, None] @ change)[:, 0])

    def held_out_error(self, ridge: float) -> Tensor:
        total = self._gram.new_zeros(())
        for number in range(_folds_held_out(self._x.shape[2])):
            if number not in self._held_out:
                self._held_out[number] = self._split(number)
            own, left, across, known = self._held_out[number]
            factor = torch.linalg.cholesky_ex(_add_to_diagonal(known, self._penalty(ridge, known)).to(self._x.dtype))
            half = torch.cholesky_solve(own.to(self._x.dtype), factor.L)
            left = left - across @ half.double()
            total = total + torch.where((factor.info == 0).all(), left.square().sum(), math.inf)
        return total

    def _split(self, number: int) -> tuple[Tensor, ...]:
        """Combinations of the residuals of the other folds and of one, and products of their rows, in float64."""
        r = self._r.double() @ _probes(self._gram, self._r.shape[2])
        rows, start = torch.arange(r.shape[1], device=r.device), sum(self._counts[:number])
        stop = start + self._counts[number]
        there, rest = rows[start:stop], torch.cat([rows[:start], rows[stop:]])
        known, across = (take(self._gram[:, some], 2, rest) for some in (rest, there))
        own = r[:, rest]
        if self._centred:
            return self._about_known(rest, there, own, r[:, there], across, known)
        return own, r[:, there], across, known

    def _penalty(self, ridge: float, gram: Tensor) -> Tensor:
        """As that of the sums, from products of rows about their mean."""
        mean, raw = _mean_square(gram), self._about.double().square().sum(1)
        constant = find_constant(raw.sqrt(), mean, self._x.dtype)
        units = torch.where(constant, torch.where(raw > 0, raw, 1.0), ridge * mean)
        return units * gram.shape[1] / self._x.shape[2]

    def _about_known(
        self, rest: Tensor, there: Tensor, own: Tensor, left: Tensor, across: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Residuals and products of rows about the means of the rows that are known."""
        roots, far = self._roots[rest], self._roots[there]
        total = roots.square().sum()
        mean = (roots @ own / total)[:, None]
        across = across - far[:, None] * (roots @ known / total)[:, None]
        across = across - (across @ roots / total)[..., None] * roots
        return own - roots[:, None] * mean, left - far[:, None] * mean, across, _centre(known, roots)


def best_ridge(solver: Solver, first: float = FIRST_RIDGE) -> float:
    """The ridge of `RIDGES` that leaves the least on samples held out, in all groups together.

    The search goes up as long as the error falls, or else down. Where rows are too few to hold any out, it is the
    largest.

    Args:
        solver: The regression.
        first: Where to start; near the best one fewer are tried.
    """
    if not solver.can_hold_out:
        return RIDGES[-1]

    @cache
    def error(place: int) -> float:
        return float(solver.held_out_error(RIDGES[place]).nan_to_num(nan=math.inf, posinf=math.inf))

    best = start = RIDGES.index(first)
    while best + 1 < len(RIDGES) and error(best + 1) <= error(best):
        best += 1
    while 0 < best <= start and error(best - 1) < error(best):
        best -= 1
    return RIDGES[best]


class _Inverse:
    """The inverse of a symmetric matrix, positive unless rounding made it otherwise, shape [groups, n, n]."""

    def __init__(self, matrix: Tensor) -> None:
        self._factor, info = torch.linalg.cholesky_ex(matrix)
        self._matrix = None if bool((info == 0).all()) else matrix

    def times(self, values: Tensor) -> Tensor:
        """The inverse times other matrices, shape [groups, n, columns]."""
        if self._matrix is None:
            return torch.cholesky_solve(values, self._factor)
        solved: Tensor = torch.linalg.solve(self._matrix, values)
        return solved


def _folds_held_out(inputs: int) -> int:
    return FOLDS if inputs < _WIDE else 1


def _mean_square(second: Tensor) -> Tensor:
    """Mean of the diagonal, shape [groups]."""
    mean: Tensor = second.diagonal(dim1=1, dim2=2).mean(1)
    return mean


def _penalty(ridge: float, moments: CrossMoments, kind: torch.dtype) -> Tensor:
    """A ridge in units of the inputs' mean square; where they do not vary, it is one that leaves no change."""
    mean, raw = _mean_square(moments.xx), moments.x.square().mean(1)
    constant = find_constant(raw.sqrt(), mean, kind)
    return torch.where(constant, torch.where(raw > 0, raw, 1.0), ridge * mean)


def _add_to_diagonal(matrix: Tensor, penalty: Tensor) -> Tensor:
    added = matrix.clone()
    added.diagonal(dim1=1, dim2=2).add_(penalty[:, None] + torch.finfo(matrix.dtype).tiny)
    return added


def _along(roots: Tensor, values: Tensor) -> Tensor:
    """The part of columns that lies along the roots of the weights, shape [groups, rows, columns]."""
    return roots[:, None] * (roots @ values / roots.square().sum())[:, None]


def _centre(gram: Tensor, roots: Tensor) -> Tensor:
    """Products of rows about their mean, from those of the rows."""
    half = gram - _along(roots, gram)
    return half - _along(roots, half.mT).mT


def _probes(like: Tensor, outputs: int) -> Tensor:
    """Random signs by which outputs are combined, shape [outputs, combinations]; all outputs where they are few."""
    if outputs <= _PROBES:
        return torch.eye(outputs, dtype=like.dtype, device=like.device)
    signs = torch.randint(2, (outputs, _PROBES), generator=torch.Generator().manual_seed(outputs))
    return (2.0 * signs - 1).div_(_PROBES**0.5).to(like)
