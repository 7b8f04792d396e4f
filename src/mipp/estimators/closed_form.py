"""The closed form on samples: as they are, on ranks (a Gaussian copula), or with an additive basis of every feature."""

from collections.abc import Iterator
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from mipp.estimators.base import Samples, classes_of, register
from mipp.estimators.gaussian import GaussianInformation
from mipp.runtime.settings import check_settings


@register("gaussian")
@dataclass(frozen=True)
class Gaussian:
    """Second moments and nothing else, in closed form.

    Attributes:
        ranks: Replace every column by its normal scores, so that monotone maps of a column change nothing.
        basis: Functions per feature: itself, and basis - 1 hinges at its quantiles, so that curved dependence on one
            feature is seen. Dependence on several at once (XOR) is not.
    """

    ranks: bool = False
    basis: int = 1

    def __post_init__(self) -> None:
        check_settings(self, basis="[1, inf)")

    @property
    def needs_moments_only(self) -> bool:
        """True for the plain closed form."""
        return not self.ranks and self.basis == 1

    def __call__(self, samples: Samples, generator: torch.Generator) -> GaussianInformation:
        x, y, blocks = self._columns(samples)
        return _fit(x, y, blocks, samples.noise, samples.weights)

    def _columns(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        x, y, blocks = samples.x.cpu().double(), _numeric(samples.y), samples.blocks.cpu()
        if self.ranks:
            x, y = normal_scores(x), normal_scores(y)
        if self.basis > 1:
            x, blocks = _with_hinges(x, blocks, self.basis)
        return x, y, blocks


def normal_scores(values: Tensor) -> Tensor:
    """Every column as the normal quantiles of its ranks; ties share their mean rank; shape [rows, columns]."""
    ranks = scipy.stats.rankdata(values.cpu().numpy(), axis=0)
    return torch.from_numpy(scipy.stats.norm.ppf(ranks / (len(values) + 1)))


def _fit(x: Tensor, y: Tensor, blocks: Tensor, noise: Tensor, weights: Tensor | None) -> GaussianInformation:
    features = x.shape[1]
    joint = torch.cat([x, y], 1)
    rows = x.new_ones(len(x)) if weights is None else weights.cpu().double()
    number = float(rows.sum())
    centred = joint - (rows @ joint) / number
    covariance = (centred.mT * rows) @ centred / number
    xx, xy, yy = covariance[:features, :features], covariance[:features, features:], covariance[features:, features:]
    floor = noise.cpu().double().expand(len(yy)) * yy.diagonal()
    return GaussianInformation(xx, xy, yy, blocks, floor, round(number))


def _numeric(y: Tensor) -> Tensor:
    """Targets as numbers, shape [rows, targets]; classes become indicators."""
    if y.is_floating_point():
        return y.cpu().double()
    return torch.nn.functional.one_hot(classes_of(y.cpu())).double()


def _with_hinges(x: Tensor, blocks: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Adds max(x - q, 0) for number - 1 inner quantiles q of every feature, and widens the blocks."""
    columns = [x, *(torch.relu(x - q) for q in _quantiles(x, number))]
    features = x.shape[1]
    wide = torch.cat([blocks + features * i for i in range(number)], 1)
    return torch.cat(columns, 1), wide


def _quantiles(x: Tensor, number: int) -> Iterator[Tensor]:
    ordered = x.sort(0).values
    for i in range(1, number):
        yield ordered[i * len(x) // number]
