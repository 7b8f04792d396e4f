"""The information about several targets is the sum of what each receives."""

import pytest
import torch

from mipp.estimators import Gaussian, GaussianInformation, Information, Samples, SumInformation


def fitted(estimator, x, y, seed=0, noise=0.5) -> Information:
    return estimator(Samples.of(x, y, noise), torch.Generator().manual_seed(seed))


def regression(rows=600, seed=0):
    """A strong node, a weaker one, noise, a constant, and a copy of the strong one."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=g)
    y = torch.stack([x[:, 0], 0.8 * x[:, 0] + 0.6 * x[:, 1]], 1) + 0.3 * torch.randn(rows, 2, generator=g)
    return torch.cat([x, torch.ones(rows, 1), x[:, :1]], 1), y


def test_of_several_readers_the_sum_counts():
    x, y = regression(500)
    parts = [fitted(Gaussian(), x, y), fitted(Gaussian(), x, y[:, :1])]
    both = SumInformation([fitted(Gaussian(), x, y), fitted(Gaussian(), x, y[:, :1])])
    assert both.loss(1) == pytest.approx(sum(p.loss(1) for p in parts))
    assert both.total() == pytest.approx(sum(p.total() for p in parts))


def covariance(features: int, targets: int, seed: int, loading: float = 1.0):
    """Covariances of X and of Y = a linear function of X plus noise."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(features, features, generator=g, dtype=torch.float64)
    xx = root @ root.mT + 0.5 * torch.eye(features, dtype=torch.float64)
    weight = loading * torch.randn(targets, features, generator=g, dtype=torch.float64)
    extra = torch.randn(targets, targets, generator=g, dtype=torch.float64)
    return (
        xx,
        xx @ weight.mT,
        weight @ xx @ weight.mT + 0.3 * extra @ extra.mT,
        torch.rand(targets, generator=g).double() + 0.2,
    )


def blocks_of(nodes: int, width: int) -> torch.Tensor:
    return torch.arange(nodes * width).reshape(nodes, width)


def make(nodes=4, width=1, targets=3, seed=0, extra=0):
    """The estimator and the matrices behind it; `extra` features belong to no node."""
    xx, xy, yy, noise = covariance(nodes * width + extra, targets, seed)
    return GaussianInformation(xx, xy, yy, blocks_of(nodes, width), noise, 1000), (xx, xy, yy, noise)


def test_the_sum_over_readers_is_the_sum():
    parts = [make(seed=s)[0] for s in (0, 1)]
    both = SumInformation([make(seed=s)[0] for s in (0, 1)])
    for removed in (None, 2, 0):
        if removed is not None:
            both.remove(removed)
            for part in parts:
                part.remove(removed)
        torch.testing.assert_close(both.losses(), parts[0].losses() + parts[1].losses())
    torch.testing.assert_close(both.marginal(), parts[0].marginal() + parts[1].marginal())
    assert both.confidence(1) == 1 - 2 * (1 - max(p.confidence(1) for p in parts))
