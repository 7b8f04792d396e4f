"""Moments of samples: means and second moments, or variances alone, that batches and processes merge exactly."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Self

import torch
from torch import Tensor

from mipp.runtime.distributed import gather, is_sharded, sum_shards
from mipp.statistics.extremes import are_extreme
from mipp.statistics.products import add_products, complete

_ROWS = 8192  # that are taken about the mean at once
_FEW = 1024  # whose products within blocks are summed in their own type


class _Centred:
    """Count and mean of samples, and products about the mean, which batches merge exactly.

    Pairwise (Chan, Golub & LeVeque 1983), so that no digits are lost where the mean is large.
    """

    def __init__(self, features: int, device: torch.device | None, products: torch.dtype) -> None:
        self.count, self.products, self.widened = 0, products, False
        self.mean = torch.zeros(features, dtype=torch.float64, device=device)

    def update(self, samples: Tensor) -> None:
        """Adds samples, shape [n, features]; of complex ones the real and the imaginary parts count as two."""
        if len(samples) == 0:
            return
        if samples.is_complex():
            samples = torch.view_as_real(samples).movedim(-1, 0).flatten(0, 1)
        if are_extreme(samples):
            self.widened, samples = True, samples.double()
        middle, kind = samples.mean(0), torch.float64 if samples.dtype == torch.float64 else self.products
        off = torch.zeros_like(self.mean)
        for some in samples.split(self._rows_at_once()):
            values = some.to(kind) - middle.to(kind)
            off += values.sum(0)
            self._add_products(values)
        off /= len(samples)  # the rounding error of `middle` as the mean
        self._add_outer(off, -len(samples))
        self._move(middle.double() + off, len(samples))

    def pool(self) -> Self:
        """The moments of the samples of all processes, where data are sharded: their sums about the common mean."""
        if not is_sharded():
            return self
        sums, total = (
            sum_shards(torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])])),
            deepcopy(self),
        )
        total.count = round(float(sums[-1]))
        total.mean = sums[:-1] / max(total.count, 1)
        total._add_outer(self.mean - total.mean, self.count)
        total._sum_shards()
        return total

    def _move(self, mean: Tensor, count: int) -> None:
        """Takes the mean on to where it is with more samples, whose scatter about their own has been added."""
        total, shift = self.count + count, mean - self.mean
        self._add_outer(shift, self.count * count / total)
        self.mean.add_(shift, alpha=count / total)
        self.count = total

    def _rows_at_once(self) -> int:
        """So many samples are taken about the mean at once."""
        return _ROWS

    def _add_products(self, values: Tensor) -> None:
        """Adds products of features, summed over values of shape [n, features]."""
        raise NotImplementedError

    def _add_outer(self, shift: Tensor, times: float) -> None:
        """Adds products of the features of one sample, so many times."""
        raise NotImplementedError

    def _sum_shards(self) -> None:
        """Sums the products over all processes."""
        raise NotImplementedError


class Moments(_Centred):
    """Count, mean and second moments of samples, in float64; batches, workers and machines merge exactly.

    Args:
        features: Number of features.
        device: Where the moments are.
        products: Samples of fewer digits than float64 are multiplied in this type, centred and a block of rows at a
            time, which errs by 1e-7 of the variances in float32; sums over blocks are in float64 in any case. Those
            whose squares would overflow or vanish are multiplied in float64.

    Attributes:
        widened: True if any were.
    """

    def __init__(
        self, features: int, device: torch.device | None = None, products: torch.dtype = torch.float64
    ) -> None:
        super().__init__(features, device, products)
        self._sums = torch.zeros(features, features, dtype=torch.float64, device=device)  # below the diagonal: anything

    @property
    def scatter(self) -> Tensor:
        """Second moment about the mean, summed, shape [features, features]."""
        return complete(self._sums.clone()[None])[0]

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return int(self._sums.nbytes)

    def merge(self, other: "Moments") -> None:
        """Adds the samples behind other moments."""
        if other.count == 0:
            return
        self._sums.add_(other._sums)
        self._move(other.mean, other.count)

    def _rows_at_once(self) -> int:
        return max(_ROWS, len(self.mean))

    def _add_products(self, values: Tensor) -> None:
        add_products(self._sums[None], values[None])

    def _add_outer(self, shift: Tensor, times: float) -> None:
        self._sums.addr_(shift, shift, alpha=times)

    def _sum_shards(self) -> None:
        self._sums = sum_shards(self._sums)

    def at(self, places: Tensor) -> "Moments":
        """The moments of the features at some places, in their order."""
        places = places.to(self.mean.device)
        part = Moments(0, self.mean.device, self.products)
        part.count, part.mean, part.widened = self.count, self.mean[places], self.widened
        part._sums = self.scatter.index_select(0, places).index_select(1, places)
        return part

    @property
    def covariance(self) -> Tensor:
        """Second moment about the mean, divided by the count, shape [features, features]."""
        return self.scatter / max(self.count, 1)

    @property
    def variance(self) -> Tensor:
        """Diagonal of the covariance, shape [features]."""
        return self._sums.diagonal() / max(self.count, 1)

    @property
    def raw(self) -> Tensor:
        """Second moment about zero, divided by the count, shape [features, features]."""
        return self.covariance + torch.outer(self.mean, self.mean)


class BlockMoments(_Centred):
    """Means of features, and second moments within blocks of them, in float64; those across blocks are not kept.

    Args:
        blocks: Features of every block; each feature is in one of them.
        device: Where the moments are.
        products: The type in which samples of fewer digits than float64 are multiplied, as in `Moments`.

    Attributes:
        widened: True if samples were multiplied in float64, as their squares would overflow or vanish otherwise.
    """

    def __init__(
        self, blocks: Sequence[Tensor], device: torch.device | None = None, products: torch.dtype = torch.float64
    ) -> None:
        super().__init__(sum(map(len, blocks)), device, products)
        widths = sorted({len(block) for block in blocks})
        self._blocks = [torch.stack([b for b in blocks if len(b) == width]).to(device) for width in widths]
        self._sums = [self.mean.new_zeros(*own.shape, own.shape[1]) for own in self._blocks]

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return int(self.mean.nbytes + sum(own.nbytes for own in self._sums))

    @property
    def variance(self) -> Tensor:
        """Of every feature, shape [features]."""
        found = torch.empty_like(self.mean)
        for own, sums in zip(self._blocks, self._sums, strict=True):
            found[own] = sums.diagonal(dim1=1, dim2=2)
        return found / max(self.count, 1)

    @property
    def covariances(self) -> list[tuple[Tensor, Tensor]]:
        """Blocks of one width, shape [blocks, width], and their covariances, shape [blocks, width, width]."""
        return [(own, sums / max(self.count, 1)) for own, sums in zip(self._blocks, self._sums, strict=True)]

    @property
    def raw(self) -> list[tuple[Tensor, Tensor]]:
        """The same with second moments about zero."""
        return [(own, xx + self._outer(self.mean, own)) for own, xx in self.covariances]

    def of(self, blocks: Tensor) -> Tensor:
        """The covariances of some blocks, shape [blocks, width] -> [blocks, width, width]."""
        width = blocks.shape[1]
        own, found = next((own, xx) for own, xx in self.covariances if own.shape[1] == width)
        place = own.new_zeros(len(self.mean))
        place[own[:, 0]] = torch.arange(len(own), device=own.device)
        return found[place[blocks[:, 0].to(own.device)]]

    def _add_products(self, values: Tensor) -> None:
        for own, sums in zip(self._blocks, self._sums, strict=True):
            sums += _squares(values, own)

    def _add_outer(self, shift: Tensor, times: float) -> None:
        for own, sums in zip(self._blocks, self._sums, strict=True):
            sums.add_(self._outer(shift, own), alpha=times)

    def _sum_shards(self) -> None:
        self._sums = [sum_shards(own) for own in self._sums]

    @staticmethod
    def _outer(values: Tensor, blocks: Tensor) -> Tensor:
        return values[blocks][:, :, None] * values[blocks][:, None]


def _squares(values: Tensor, blocks: Tensor) -> Tensor:
    """Products of values [n, features] within blocks, summed over n, in float64."""
    if blocks.shape[1] == 1:
        pieces = (some.square().sum(0).double() for some in values.split(_FEW))
        return torch.stack(list(pieces)).sum(0)[blocks][..., None]
    own = values[:, blocks].movedim(0, 1)
    pieces = (some.mT @ some for some in own.split(_FEW, 1))
    total: Tensor = sum((piece.double() for piece in pieces), torch.zeros((), dtype=torch.float64))
    return total


class Variances:
    """Count, mean and variance of every channel of a tensor, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.scatter = torch.zeros(())

    def update(self, samples: Tensor) -> None:
        """Adds samples, shape [n, channels]."""
        values = samples.to(torch.float64)
        mean = values.mean(0)
        self._merge(len(values), mean, (values - mean).square().sum(0))

    def pool(self) -> "Variances":
        """Those of the samples of all processes, where data are sharded."""
        if not is_sharded():
            return self
        total = Variances()
        for count, mean, scatter in gather((self.count, self.mean.cpu(), self.scatter.cpu())):
            total._merge(count, mean.to(self.mean.device), scatter.to(self.mean.device))
        return total

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total, shift = self.count + count, mean - self.mean
        self.scatter = self.scatter + scatter + shift.square() * (self.count * count / max(total, 1))
        self.mean = self.mean + shift * (count / max(total, 1))
        self.count = total

    @property
    def variance(self) -> Tensor:
        return self.scatter / max(self.count, 1)
