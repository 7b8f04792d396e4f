r"""Gaussian mutual information in closed form, for every node at once.

With A the precision of X and K the precision of X given Y, the information that only the block U of X has about Y is

    I(X_U; Y | X_rest) = 1/2 (log det K_UU - log det A_UU),

and both matrices lose a block by the same rule (optimal brain surgeon, Hassibi & Stork 1993). That rule reads nothing
outside the features that may be removed, so only their part of A and K is kept. Y may carry a noise floor: without
one, a target that is linear in X has (almost) infinite information.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mipp.errors import CalibrationError
from mipp.estimators.features import RIDGE, Features, eye, invert, log_det_plus_one, spread_of
from mipp.estimators.neighbours import Neighbours
from mipp.estimators.precisions import Remaining
from mipp.estimators.wilks import wilks_confidence

_SMALL = 1024  # features, up to which several calls take longer than what they compute
_LEAST_RESIDUAL = 1e-5  # far above the ridge, or copies would look like ways to average it out
_CLEAR_NOISE = 1e-3  # of a target's variance, from which on its covariance can be factored as it is


class GaussianInformation:
    r"""I(X_S; Y + noise) of jointly Gaussian X and Y, where S is a set of nodes and each node a block of features.

    Args:
        xx: Covariance of the features, shape [features, features]; or what is made of it, where it serves many targets.
        xy: Covariance of features and target, shape [features, targets].
        yy: Covariance of the target, shape [targets, targets].
        blocks: Features of every node, shape [nodes, features per node]. Features in no block are always available.
        noise: Variance of the noise added to each target, shape [targets]; or its covariance, shape [targets, targets].
            The inverse of the covariance is a metric of the target: where it is small, information tends to half the
            squared error in that metric.
        samples: Number of samples behind the covariances, for `confidence`.

    All tensors are on one device, where the work is done; what is returned is on the CPU.
    """

    def __init__(
        self, xx: Tensor | Features, xy: Tensor, yy: Tensor, blocks: Tensor, noise: Tensor, samples: int
    ) -> None:
        features = xx if isinstance(xx, Features) else Features.of(xx)
        self._begin(features, _ByMoments(features, xy, yy, noise), blocks, samples)

    @classmethod
    def of_linear(
        cls, features: Features, weight: Tensor, blocks: Tensor, noise: Tensor, samples: int
    ) -> "GaussianInformation":
        """Information about Y = weight X with noise that is clear; weight of shape [targets, features]."""
        made = cls.__new__(cls)
        made._begin(features, _ByWeight(features, weight, noise), blocks, samples)
        return made

    def _begin(self, features: Features, target: "_Target", blocks: Tensor, samples: int) -> None:
        self.num_nodes, self.samples = len(blocks), samples
        self._model = _Model(features.covariance, target, blocks.to(features.covariance.device))
        nodes = torch.arange(len(blocks), device=features.covariance.device)
        without, given = self._model.precisions(nodes, features.precision)
        self._left = Remaining([self._model.precisions], without[None], given[None], self.num_nodes)
        self._place = 0

    @staticmethod
    def join(parts: Sequence["GaussianInformation"]) -> list[Remaining]:
        """The sum of all parts in as few summands as can be: one for those of one size whose matrices are small.

        Args:
            parts: Information of the same nodes, of which none was removed; all lose a node together from now on.
        """
        alike: dict[tuple[object, ...], list[GaussianInformation]] = {}
        for number, part in enumerate(parts):
            xx, blocks = part._model.xx, part._model.blocks
            alike.setdefault((xx.device, blocks.shape, number if len(xx) > _SMALL else None), []).append(part)
        for own in alike.values():
            together = Remaining.merge([part._left for part in own]) if len(own) > 1 else own[0]._left
            for place, part in enumerate(own):
                part._left, part._place = together, place
        return [own[0]._left for own in alike.values()]

    def marginal(self) -> Tensor:
        own = self._model.own()
        return -0.5 * log_det_plus_one(own, self._model.target.known(self._model.blocks, own)).cpu()

    def losses(self) -> Tensor:
        return self._left.losses_of_each()[self._place]

    def loss(self, node: int) -> float:
        return float(self._left.loss_of_each(node)[self._place])

    def remove(self, node: int) -> None:
        self.remove_all([node])

    def remove_all(self, nodes: Sequence[int]) -> None:
        """Takes several nodes out of S at once."""
        self._left.remove_all(nodes)

    def among(self, nodes: Tensor) -> Neighbours:
        """The same set function of a few nodes while the others stay as they are, on the CPU."""
        return self._left.among(nodes)

    def confidence(self, node: int, margin: float = 0.0) -> float:
        """One minus the p-value of Wilks' test that the node adds at most `margin` nats.

        Exact for independent Gaussian samples where Rao's F is, if there is no noise or it was drawn with the samples;
        noise that is only known by its covariance makes it cautious. Constant features of a node do not count.

        Raises:
            CalibrationError: There are too few samples for the test.
        """
        varies = self._model.xx.diagonal() > 0
        features = int(varies[self._model.left(self._left.alive)].sum())
        targets, width = self._model.target.count, int(varies[self._model.blocks[node]].sum())
        freedom = self.samples - 1 - features
        if width * targets == 0 and self.samples > 1:
            return 0.0
        if freedom < targets or self.samples < 2:
            raise CalibrationError(
                f"{self.samples} samples are too few to test {features} features against {targets} targets; expected "
                f"at least {features + targets + 1}. Pass more samples, or say how much to keep (a budget, "
                "or num_features) instead of a confidence."
            )
        return wilks_confidence(self.loss(node), width, targets, freedom, self.samples, margin)

    def total(self) -> float:
        """I(X_S; Y + noise) of all features still there, in nats."""
        left, xx = self._model.left(self._left.alive), self._model.xx
        return self._model.target.total(left, xx[left][:, left] + RIDGE * eye(len(left), xx))


def linear_information(
    features: Features, weight: Tensor, blocks: Tensor, noise: Tensor, samples: int
) -> GaussianInformation:
    """Information about Y = weight X, shape [targets, features].

    Where there are many targets with clear noise N, the precision of X given Y is taken from W' N^-1 W, with no look at
    the targets themselves. Of other noise more targets than features are first summed up: all that Y tells of X lies in
    W' N^-1 Y, whose covariance given X is W' N^-1 W. Of its square root Q the columns are as good a weight, with noise
    of one.
    """
    many = 2 * len(weight) >= weight.shape[1]
    if many and bool(((noise > 0) & (noise >= _CLEAR_NOISE * _variances(features, weight))).all()):
        return GaussianInformation.of_linear(features, weight, blocks, noise, samples)
    if len(weight) > weight.shape[1] and bool((noise > 0).all()):
        values, vectors = torch.linalg.eigh((weight.mT / noise) @ weight)
        live = values > 1e-14 * values[-1]
        weight = (vectors[:, live] * values[live].sqrt()).mT
        noise = noise.new_ones(len(weight))
    xy = features.with_target(weight)
    return GaussianInformation(features, xy, weight @ xy, blocks, noise, samples)


def _variances(features: Features, weight: Tensor) -> Tensor:
    """Those of Y = weight X, to the digits of float32, shape [targets]."""
    scaled = (weight * features.spread).float()
    variances: Tensor = (scaled @ features.covariance.float()).mul_(scaled).sum(1)
    return variances.double()


class _Target(Protocol):
    """A target, and how it goes together with the features, these in units of their spread.

    Attributes:
        count: Number of targets that differ.
    """

    count: int

    def known(self, blocks: Tensor, own: Tensor) -> Tensor:
        """The change of the covariances of blocks where the target is known, shape [nodes, width, width]."""

    def given(self, left: Tensor, precision: Tensor, rows: Tensor) -> Tensor:
        """The precision of some of the features that are left, given the target; without it, it is `precision`."""

    def total(self, left: Tensor, covariance: Tensor) -> float:
        """The information of the features that are left, in nats."""


@dataclass(frozen=True, eq=False)
class _Model:
    """Features, of which each node has some, and a target.

    Attributes:
        xx: Covariance of the features in units of their spread, shape [features, features].
        target: See there.
        blocks: Features of every node, shape [nodes, features per node].
    """

    xx: Tensor
    target: _Target
    blocks: Tensor

    def own(self) -> Tensor:
        """Covariances of the features of single nodes, shape [nodes, width, width]."""
        own = self.xx[self.blocks[:, :, None], self.blocks[:, None, :]]
        return own + RIDGE * eye(own.shape[-1], own)

    def left(self, alive: Tensor) -> Tensor:
        """The features of the nodes that are still there, and of none, ascending."""
        mask = torch.ones(len(self.xx), dtype=torch.bool, device=self.xx.device)
        mask[self.blocks.flatten()] = False
        mask[self.blocks[alive].flatten()] = True
        return torch.nonzero(mask).flatten()

    def precisions(self, alive: Tensor, precision: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Those of the features of the nodes still there without and given the target, in matrices of their own.

        Args:
            alive: These nodes.
            precision: That of all features that are left, where it is known.
        """
        left, own = self.left(alive), self.blocks[alive].flatten()
        row = left.new_full((len(self.xx),), -1)
        row[left] = torch.arange(len(left), device=left.device)
        a = invert(self.xx[left][:, left] + RIDGE * eye(len(left), self.xx)) if precision is None else precision
        k = self.target.given(left, a, row[own])
        if not torch.equal(row[own], left):
            return a[row[own]][:, row[own]], k
        return (a.clone() if a is precision else a), k


class _ByMoments:
    """A target of which covariances are known: with the features, and with itself."""

    def __init__(self, features: Features, xy: Tensor, yy: Tensor, noise: Tensor) -> None:
        white, self._clear = _whitening(yy.double(), noise.double())
        self._xy, self.count = xy.double() @ white / features.spread[:, None], white.shape[1]

    def known(self, blocks: Tensor, own: Tensor) -> Tensor:
        cross = self._xy[blocks]
        return -cross @ cross.mT

    def given(self, left: Tensor, precision: Tensor, rows: Tensor) -> Tensor:
        xy = self._xy[left]
        b = precision @ xy
        rest = torch.linalg.cholesky(_residual(xy, b, clear=self._clear))
        if len(rows) != len(left) or not torch.equal(rows, torch.arange(len(left), device=left.device)):
            precision, b = precision[rows][:, rows], b[rows]
        half = torch.linalg.solve_triangular(rest, b.mT, upper=False)
        return torch.addmm(precision, half.mT, half)

    def total(self, left: Tensor, covariance: Tensor) -> float:
        xy = self._xy[left]
        return -0.5 * float(torch.logdet(_residual(xy, torch.linalg.solve(covariance, xy), clear=self._clear)))


class _ByWeight:
    """A target Y = weight X with noise N: given Y, the precision of X is larger by W' N^-1 W, and that is all."""

    def __init__(self, features: Features, weight: Tensor, noise: Tensor) -> None:
        scaled = weight.double() * features.spread / noise.double().sqrt()[:, None]
        self.count = min(scaled.shape)
        self._precision = torch.addmm(features.precision, scaled.mT, scaled)
        self._covariance = invert(self._precision)

    def known(self, blocks: Tensor, own: Tensor) -> Tensor:
        return self._covariance[blocks[:, :, None], blocks[:, None, :]] - own

    def given(self, left: Tensor, precision: Tensor, rows: Tensor) -> Tensor:
        whole = len(left) == len(self._covariance)
        k = self._precision if whole else invert(self._covariance[left][:, left])
        return k[rows][:, rows]

    def total(self, left: Tensor, covariance: Tensor) -> float:
        rest = self._covariance[left][:, left]
        return 0.5 * float(torch.logdet(covariance) - torch.logdet(rest))


def _whitening(yy: Tensor, noise: Tensor) -> tuple[Tensor, bool]:
    """A map to uncorrelated targets of unit variance; drops what is constant or repeats others; [targets, fewer].

    Also returns whether every target that is left has clear noise, so that no set of features determines it.
    """
    covariance = yy + (noise if noise.ndim == 2 else torch.diag(noise))
    varies = covariance.diagonal() > 0
    clear = noise.ndim == 1 and bool((noise >= _CLEAR_NOISE * covariance.diagonal()).all())
    spread = spread_of(covariance)
    scaled = covariance / spread[:, None] / spread[None, :]
    if clear:
        scaled.diagonal()[~varies] = 1
        inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(scaled), eye(len(scaled), scaled), upper=False)
        return inverse.mT / spread[:, None], True
    values, vectors = torch.linalg.eigh(scaled)
    live = values > 1e-10 * max(float(values[-1]), 0.0) + 1e-300
    white: Tensor = vectors[:, live] / values[live].sqrt() / spread[:, None]
    return white, False


def _residual(xy: Tensor, b: Tensor, *, clear: bool) -> Tensor:
    """Covariance of the white Y given X; unless noise is clear, kept away from zero where Y is a function of X."""
    rest = eye(xy.shape[1], xy) - xy.mT @ b
    if clear:
        return rest
    values, vectors = torch.linalg.eigh(0.5 * (rest + rest.mT))
    positive: Tensor = (vectors * values.clamp_min(_LEAST_RESIDUAL)) @ vectors.mT
    return positive
