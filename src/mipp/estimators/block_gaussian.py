r"""Gaussian information of a linear layer when only some of the second moments of its inputs are known.

The inputs fall into parts that count as independent of each other. With Y = sum_p W_p X_p + noise, what a node tells Y
given all other nodes is then at most the sum over parts of what its features in each part tell W_p X_p + noise, and
equal to it where each node lies in one part.
"""

from collections.abc import Sequence

import scipy
import torch
from torch import Tensor

from mipp.estimators.features import Features, eye
from mipp.estimators.gaussian import GaussianInformation, linear_information

_ROWS = 64  # of a weight that are widened and squared at once, so that they stay in the cache
_NUMBERS = 2**21  # of a weight that are gathered at once


class IndependentInformation:
    """I(X_S; Y + noise) of nodes that count as independent: each brings its own value whatever the others do.

    Args:
        values: Nats that every node brings, shape [nodes].
        freedom: Features per node and targets, for `confidence`.
        samples: Number of samples behind the values.
    """

    def __init__(self, values: Tensor, freedom: tuple[int, int], samples: int) -> None:
        self.num_nodes, self.samples = len(values), samples
        self._values, self._left, self._freedom = values, values.clone(), freedom

    def marginal(self) -> Tensor:
        return self._values

    def losses(self) -> Tensor:
        return self._left.clone()

    def values(self) -> Tensor:
        return self._values

    def loss(self, node: int) -> float:
        return float(self._left[node])

    def remove(self, node: int) -> None:
        self._left[node] = torch.inf

    def remove_all(self, nodes: Sequence[int]) -> None:
        self._left[list(nodes)] = torch.inf

    def among(self, nodes: Tensor) -> "IndependentInformation":
        return IndependentInformation(self._values[nodes], self._freedom, self.samples)

    def confidence(self, node: int, margin: float = 0.0) -> float:
        """One minus the p-value of Wilks' test that the node tells no more than `margin` (approximate)."""
        width, targets = self._freedom
        weight = max(self.samples - 1 - width - (targets - width + 1) / 2, 0.0)
        return float(scipy.stats.chi2.cdf(weight * 2 * max(float(self._left[node]) - margin, 0.0), targets * width))

    def total(self) -> float:
        return float(self._left[torch.isfinite(self._left)].sum())


def apart(
    weight: Tensor,
    parts: Sequence[Tensor],
    moments: Sequence[tuple[Tensor | Features, int]],
    blocks: Tensor,
    floor: Tensor | None,
    noise: float,
) -> Sequence[GaussianInformation]:
    """The information of nodes about Y = weight X, one summand per part.

    Args:
        weight: Shape [targets, features].
        parts: Features of every part.
        moments: Covariance of every part, or what is made of it, and the number of samples behind it.
        blocks: Features of every node, shape [nodes, features per node].
        floor: Variance of the noise on the targets, shape [targets]; None: `noise` times the variance of Y.
        noise: See there.
    """
    features = [xx if isinstance(xx, Features) else Features.of(xx) for xx, _ in moments]
    if floor is None:
        own = [(weight[:, p].mT * f.with_target(weight[:, p])).sum(0) for p, f in zip(parts, features, strict=True)]
        floor = noise * torch.stack(own).sum(0)
    found = []
    for part, xx, (_, samples) in zip(parts, features, moments, strict=True):
        place = torch.full((weight.shape[1],), -1)
        place[part] = torch.arange(len(part))
        own_blocks = place[blocks][place[blocks] >= 0].reshape(len(blocks), -1)
        if own_blocks.shape[1]:  # else another group has more positions
            found.append(linear_information(xx, weight[:, part], own_blocks, floor, samples))
    return found


def by_node(weight: Tensor, blocks: Tensor, covariances: Tensor, floor: Tensor, samples: int) -> IndependentInformation:
    """The information about Y = weight X of nodes that are independent of each other, in float64.

    That of a node u is 1/2 log det(I + Cov(X_u) W_u' N^-1 W_u).

    Args:
        weight: Shape [targets, features].
        blocks: Features of every node, shape [nodes, width].
        covariances: Of the features of every node, shape [nodes, width, width].
        floor: Variance N of the noise on the targets, shape [targets]; what has none tells nothing.
        samples: Number of samples behind the covariances.
    """
    inverse = torch.where(floor > 0, 1 / floor.clamp_min(1e-300), 0.0)
    if blocks.shape[1] == 1:
        gain = sum_squares(weight, inverse)[blocks[:, 0]] * covariances[:, 0, 0]
        return IndependentInformation(0.5 * torch.log1p(gain), (1, len(weight)), samples)
    values = []
    for some, xx in zip(_in_pieces(blocks, weight), _in_pieces(covariances, weight), strict=True):
        own = weight[:, some].double().movedim(0, 1)
        gain = xx @ (own.mT * inverse) @ own
        values.append(0.5 * torch.linalg.slogdet(eye(gain.shape[1], gain) + gain).logabsdet)
    return IndependentInformation(torch.cat(values), (blocks.shape[1], len(weight)), samples)


def variances_apart(weight: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The variances of Y = weight X where the parts of X are independent of each other, in float64, shape [targets].

    Args:
        weight: Shape [targets, features].
        parts: Features of parts of one width, shape [parts, width], and their covariances, [parts, width, width].
    """
    total = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    for features, covariances in parts:
        if features.shape[1] == 1:
            spread = total.new_zeros(weight.shape[1])
            spread[features[:, 0]] = covariances[:, 0, 0]
            total += torch.cat([rows.double().square() @ spread for rows in weight.split(_ROWS)])
            continue
        for some, xx in zip(_in_pieces(features, weight), _in_pieces(covariances, weight), strict=True):
            own = weight[:, some].double().movedim(0, 1)
            total += ((own @ xx) * own).sum((0, 2))
    return total


def sum_squares(weight: Tensor, factors: Tensor) -> Tensor:
    """The squares of a matrix, each row times a factor, summed over rows in float64; shape [columns]."""
    pairs = zip(factors.split(_ROWS), weight.split(_ROWS), strict=True)
    total: Tensor = sum((some @ rows.double().square() for some, rows in pairs), factors.new_zeros(weight.shape[1]))
    return total


def _in_pieces(nodes: Tensor, weight: Tensor) -> Sequence[Tensor]:
    """Runs of nodes, shape [nodes, width, ...], whose columns of a weight take little memory."""
    pieces: Sequence[Tensor] = nodes.split(max(_NUMBERS // (nodes.shape[1] * max(len(weight), 1)), 1))
    return pieces
