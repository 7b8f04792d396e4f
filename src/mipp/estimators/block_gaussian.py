r"""Gaussian information of a linear layer when only some of the second moments of its inputs are known.

The inputs fall into parts that count as independent of each other. With Y = sum_p W_p X_p + noise, what a node tells Y
given all other nodes is then at most the sum over parts of what its features in each part tell W_p X_p + noise, and
equal to it where each node lies in one part.
"""

from collections.abc import Sequence

import scipy
import torch
from torch import Tensor

from mipp.estimators.features import Features
from mipp.estimators.gaussian import GaussianInformation, linear_information


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
) -> Sequence[GaussianInformation | IndependentInformation]:
    """The information of nodes about Y = weight X, one summand per part; one for all where every node is a part.

    Args:
        weight: Shape [targets, features].
        parts: Features of every part.
        moments: Covariance of every part, or what is made of it, and the number of samples behind it.
        blocks: Features of every node, shape [nodes, features per node].
        floor: Variance of the noise on the targets, shape [targets]; None: `noise` times the variance of Y.
        noise: See there.
    """
    if any(torch.equal(part, blocks[0]) for part in parts):
        return [_by_node(weight, parts, [(xx, n) for xx, n in moments if isinstance(xx, Tensor)], blocks, floor, noise)]
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


def _by_node(
    weight: Tensor,
    parts: Sequence[Tensor],
    moments: Sequence[tuple[Tensor, int]],
    blocks: Tensor,
    floor: Tensor | None,
    noise: float,
) -> IndependentInformation:
    """1/2 log det(I + Cov(X_u) W_u' N^-1 W_u) for every node u."""
    known = {int(part[0]): xx for part, (xx, _) in zip(parts, moments, strict=True)}
    if floor is None:
        both = zip(parts, moments, strict=True)
        floor = noise * torch.stack([(weight[:, p].mT * (xx @ weight[:, p].mT)).sum(0) for p, (xx, _) in both]).sum(0)
    inverse = torch.where(floor > 0, 1 / floor.clamp_min(1e-300), 0.0)
    values = []
    for features in blocks:
        own = weight[:, features]
        gain = known[int(features[0])] @ (own.mT * inverse) @ own
        values.append(0.5 * torch.linalg.slogdet(torch.eye(len(gain), dtype=gain.dtype) + gain).logabsdet)
    return IndependentInformation(torch.stack(values), (blocks.shape[1], len(weight)), moments[0][1])
