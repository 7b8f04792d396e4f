"""Noise that is drawn: the test of a node keeps its level, which it does not with a covariance in its place."""

import numpy as np
import torch

from mipp.estimators import Gaussian, Samples, with_drawn_noise


def null_samples(g: np.random.Generator, noise: float) -> Samples:
    """Two features, of which the second tells nothing that the first does not."""
    x = g.normal(size=(60, 2))
    x[:, 1] += x[:, 0]
    y = x[:, :1] + 0.5 * g.normal(size=(60, 3))
    return Samples.of(torch.from_numpy(x), torch.from_numpy(y), noise)


def test_useless_nodes_are_kept_as_often_as_the_level_says():
    """Three standard deviations of the binomial error around 5 %; as a covariance, the noise makes it hardly ever."""
    g, generator, draws = np.random.default_rng(0), torch.Generator().manual_seed(0), 400
    drawn, added = 0, 0
    for _ in range(draws):
        samples = null_samples(g, noise=1.0)
        drawn += Gaussian()(with_drawn_noise(samples, generator), generator).confidence(1) >= 0.95
        added += Gaussian()(samples, generator).confidence(1) >= 0.95
    assert abs(drawn - 0.05 * draws) <= 3 * np.sqrt(draws * 0.05 * 0.95)
    assert added <= 1


def test_it_has_the_variance_asked_for_and_leaves_the_given_samples_alone():
    samples = Samples.of(torch.randn(50_000, 2), torch.tensor([1.0, 30.0]) * torch.randn(50_000, 2), 0.5)
    before = samples.y.clone()
    noisy = with_drawn_noise(samples, torch.Generator().manual_seed(0))
    added = (noisy.y - before.double()).var(0)
    assert torch.allclose(added, 0.5 * before.double().var(0), rtol=0.05)
    assert not noisy.noise.any()
    assert torch.equal(samples.y, before)


def test_classes_have_no_noise():
    samples = Samples.of(torch.randn(8, 2), torch.arange(8) % 2, 1.0)
    assert with_drawn_noise(samples, torch.Generator()) is samples
