"""Moments of samples: means and second moments, or variances alone, that batches and processes merge exactly."""

import torch
from torch import Tensor

from mipp.runtime.distributed import gather, is_sharded, sum_shards
from mipp.statistics.extremes import are_extreme
from mipp.statistics.products import add_products, complete

_ROWS = 8192  # that are taken about the mean at once


class Moments:
    """Count, mean and second moments of samples, in float64; batches, workers and machines merge exactly.

    The second moment is kept about the mean and merged pairwise (Chan, Golub & LeVeque 1983), so that it does not lose
    digits where the mean is large.

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
        self.count, self.products, self.widened = 0, products, False
        self.mean = torch.zeros(features, dtype=torch.float64, device=device)
        self._sums = torch.zeros(features, features, dtype=torch.float64, device=device)  # below the diagonal: anything

    @property
    def scatter(self) -> Tensor:
        """Second moment about the mean, summed, shape [features, features]."""
        return complete(self._sums.clone()[None])[0]

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return int(self._sums.nbytes)

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
        for some in samples.split(max(_ROWS, samples.shape[1])):
            values = some.to(kind) - middle.to(kind)
            off += values.sum(0)
            add_products(self._sums[None], values[None])
        off /= len(samples)  # the rounding error of `middle` as the mean
        self._sums.addr_(off, off, alpha=-len(samples))
        self._move(middle.double() + off, len(samples))

    def merge(self, other: "Moments") -> None:
        """Adds the samples behind other moments."""
        if other.count == 0:
            return
        self._sums.add_(other._sums)
        self._move(other.mean, other.count)

    def _move(self, mean: Tensor, count: int) -> None:
        """Takes the mean on to where it is with more samples, whose scatter about their own has been added."""
        total, shift = self.count + count, mean - self.mean
        self._sums.addr_(shift, shift, alpha=self.count * count / total)
        self.mean.add_(shift, alpha=count / total)
        self.count = total

    def pool(self) -> "Moments":
        """The moments of the samples of all processes, where data are sharded: their sums about the common mean."""
        if not is_sharded():
            return self
        total = Moments(len(self.mean), self.mean.device)
        total.widened = self.widened
        sums = sum_shards(torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])]))
        total.count = round(float(sums[-1]))
        total.mean = sums[:-1] / max(total.count, 1)
        shift = self.mean - total.mean
        total._sums = sum_shards(torch.addr(self.scatter, shift, shift, alpha=self.count))
        return total

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
