"""The closed form on samples: as they are, on ranks (a Gaussian copula), or with an additive basis of every feature."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from mipp.errors import MippError
from mipp.estimators.base import Samples, classes_of
from mipp.estimators.gaussian import GaussianInformation


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
        if self.basis < 1:
            raise MippError(f"Gaussian(basis={self.basis}): expected 1 (the feature itself) or more.")

    def __call__(self, samples: Samples, generator: torch.Generator) -> GaussianInformation:
        x, y, blocks = self._columns(samples)
        return _fit(x, y, blocks, samples.noise)

    def _columns(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        x, y, blocks = samples.x.cpu().double(), _numeric(samples.y), samples.blocks.cpu()
        if self.ranks:
            x, y = normal_scores(x), normal_scores(y)
        if self.basis > 1:
            x, blocks = _with_hinges(x, blocks, self.basis)
        return x, y, blocks


def bootstrap_losses(
    estimator: Gaussian, samples: Samples, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Losses of all nodes, and the same on bootstrap samples of the images.

    Rows of one image stay together, so that neighbouring positions do not count as independent samples.

    Returns:
        Losses in nats, shape [nodes], and their replicates, shape [draws, nodes].
    """
    x, y, blocks = estimator._columns(samples)
    number = torch.unique(samples.images.cpu(), return_inverse=True)[1]
    images = int(number.max()) + 1
    replicates = []
    for _ in range(draws):
        drawn = torch.randint(images, (images,), generator=generator)
        weights = torch.bincount(drawn, minlength=images)[number].double()
        replicates.append(_fit(x, y, blocks, samples.noise, weights).losses())
    return _fit(x, y, blocks, samples.noise).losses(), torch.stack(replicates)


def bootstrap_lower_bound(losses: Tensor, replicates: Tensor, confidence: float) -> Tensor:
    """Lower bound of each loss at a one-sided confidence, by the basic bootstrap, in nats, shape [nodes].

    Source: Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 5.2.
    """
    return 2 * losses - torch.quantile(replicates, confidence, dim=0)


def normal_scores(values: Tensor) -> Tensor:
    """Every column as the normal quantiles of its ranks; ties share their mean rank; shape [rows, columns]."""
    ranks = stats.rankdata(values.cpu().numpy(), axis=0)
    return torch.from_numpy(stats.norm.ppf(ranks / (len(values) + 1)))


def _fit(x: Tensor, y: Tensor, blocks: Tensor, noise: Tensor, weights: Tensor | None = None) -> GaussianInformation:
    features = x.shape[1]
    joint = torch.cat([x, y], 1)
    weights = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    total = float(weights.sum())
    centred = joint - weights @ joint / total
    covariance = (centred * weights[:, None]).mT @ centred / total
    xx, xy, yy = covariance[:features, :features], covariance[:features, features:], covariance[features:, features:]
    floor = noise.cpu().double().expand(len(yy)) * yy.diagonal()
    return GaussianInformation(xx, xy, yy, blocks, floor, round(total))


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
