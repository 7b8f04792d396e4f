"""The test behind `confidence`: exact where it says so, calibrated under the null, honest about margins and images."""

import numpy as np
import pytest
import torch
from scipy import stats

from mipp.estimators import Gaussian, GaussianInformation, Samples
from mipp.estimators.wilks import wilks_confidence
from mipp.plan.elimination import terc


def information(x: np.ndarray, y: np.ndarray, width: int = 1, noise: float = 0.0) -> GaussianInformation:
    """The closed form on samples; nodes are blocks of `width` neighbouring features."""
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    blocks = torch.arange(x.shape[1]).reshape(-1, width)
    samples = Samples(x, y, blocks, torch.arange(len(x)), torch.full((y.shape[1],), noise))
    return Gaussian()(samples, torch.Generator())


def errors(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Residual sums of squares and products of a regression with intercept: the slow, readable twin."""
    design = np.hstack([np.ones((len(x), 1)), x])
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return rest.T @ rest


def rao(x: np.ndarray, y: np.ndarray, out: list[int]) -> float:
    """One minus the p-value of Rao's F for leaving out some columns, from two regressions and the textbook."""
    stay = [i for i in range(x.shape[1]) if i not in out]
    ratio = np.linalg.det(errors(x, y)) / np.linalg.det(errors(x[:, stay], y))
    p, q, v = y.shape[1], len(out), len(x) - 1 - x.shape[1]
    t = np.sqrt((p * p * q * q - 4) / (p * p + q * q - 5)) if p * p + q * q > 5 and min(p, q) > 1 else 1.0
    df2 = (v + q - (p + q + 1) / 2) * t - (p * q - 2) / 2
    root = ratio ** (1 / t)
    return float(stats.f.cdf((1 - root) / root * df2 / (p * q), p * q, df2))


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("targets", [1, 2, 4])
def test_each_removal_has_the_confidence_of_two_regressions(width, targets):
    """Also after other nodes are gone, and with the noise floor off."""
    g = np.random.default_rng(width + targets)
    x = g.normal(size=(40, 3 * width)) @ g.normal(size=(3 * width, 3 * width))
    y = 0.3 * x[:, :1] + g.normal(size=(40, targets))
    info = information(x, y, width)
    for node in range(3):
        expected = rao(x, y, list(range(node * width, node * width + width)))
        assert info.confidence(node) == pytest.approx(expected, abs=1e-6)
    info.remove(2)
    assert info.confidence(1) == pytest.approx(rao(x[:, : 2 * width], y, list(range(width, 2 * width))), abs=1e-6)


def test_the_exact_cases_agree_with_other_formulas():
    """One target: the F-test of nested regressions. One feature: Hotelling's T-squared."""
    loss, freedom = 0.2, 30
    ratio = np.expm1(2 * loss)
    assert wilks_confidence(loss, 3, 1, freedom) == pytest.approx(stats.f.cdf(ratio * freedom / 3, 3, freedom))
    assert wilks_confidence(loss, 1, 4, freedom) == pytest.approx(
        stats.f.cdf(ratio * (freedom - 3) / 4, 4, freedom - 3)
    )


def null_confidences(draws: int, width: int, targets: int) -> list[float]:
    """Confidences of a block that adds nothing beside one that does."""
    g = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        x = g.normal(size=(40, 2 * width))
        x[:, width:] += x[:, :width]  # correlated with what counts, and still of no use
        y = x[:, :1] + g.normal(size=(40, targets))
        found.append(information(x, y, width).confidence(1))
    return found


@pytest.mark.parametrize(("width", "targets"), [(1, 1), (1, 5), (2, 3)])
def test_useless_nodes_are_kept_as_often_as_the_level_says(width, targets):
    """Binomial error, three standard deviations, at 1, 5 and 10 %."""
    found, draws = np.array(null_confidences(300, width, targets)), 300
    for level in (0.01, 0.05, 0.1):
        rejections = int((found >= 1 - level).sum())
        assert abs(rejections - draws * level) <= 3 * np.sqrt(draws * level * (1 - level)), (level, rejections)


def test_dead_features_do_not_count():
    """A filter half of whose positions are silent is tested as if it had the other half only."""
    g = np.random.default_rng(7)
    x = g.normal(size=(60, 8))
    y = x[:, :1] + 0.3 * x[:, 4:5] + g.normal(size=(60, 2))
    dead = x.copy()
    dead[:, [2, 3, 5, 6, 7]] = 0.25
    wide = information(dead, y, 4)
    assert wide.confidence(1) == pytest.approx(rao(dead[:, [0, 1, 4]], y, [2]), abs=1e-6)
    assert wide.confidence(0) == pytest.approx(rao(dead[:, [0, 1, 4]], y, [0, 1]), abs=1e-6)


def test_a_block_of_dead_features_adds_nothing_for_certain():
    x = np.random.default_rng(8).normal(size=(40, 4))
    x[:, 2:] = 1.0
    assert information(x, x[:, :1] + x[:, 1:2], 2, noise=0.5).confidence(1) == 0.0


def test_a_noise_floor_only_makes_the_test_cautious():
    g = np.random.default_rng(1)
    x = g.normal(size=(60, 4))
    y = x[:, :1] + g.normal(size=(60, 2))
    for node in range(4):
        assert information(x, y, noise=1.0).confidence(node) <= information(x, y).confidence(node) + 1e-12


def test_more_than_the_margin_is_found_as_often_as_the_level_says():
    """Loss and margin are equal, given the design: the non-central F is exact, so its level is kept."""
    g = np.random.default_rng(2)
    x = g.normal(size=(50, 2))
    own = np.linalg.inv(np.cov(x.T, bias=True))[1, 1]  # of the second feature given the first
    margin = 0.1
    slope = np.sqrt(np.expm1(2 * margin) * own)
    found = [information(x, slope * x[:, 1:] + g.normal(size=(50, 1))).confidence(1, margin) for _ in range(300)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_the_margin_decides_at_any_number_of_samples():
    """Without one everything is significant in the end; with one the weak node goes, however many samples there are."""
    for rows in (2_000, 50_000):
        g = np.random.default_rng(3)
        x = g.normal(size=(rows, 2))
        y = x[:, :1] + 0.15 * x[:, 1:] + g.normal(size=(rows, 1))  # the second adds 0.011 nats
        assert terc(information(x, y), 0.95) == (0, 1)
        assert terc(information(x, y), 0.95, margin=0.05) == (0,)


def test_a_confidence_is_that_of_the_lower_bound():
    """Higher margins are exceeded with less confidence."""
    g = np.random.default_rng(4)
    x = g.normal(size=(100, 1))
    info = information(x, x + g.normal(size=(100, 2)))
    levels = [info.confidence(0, margin) for margin in (0.0, 0.1, 0.3, 1.0)]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 0.999
    assert levels[-1] < 1e-3


def samples_of(x: np.ndarray, y: np.ndarray, images: np.ndarray) -> Samples:
    blocks = torch.arange(x.shape[1])[:, None]
    return Samples(torch.from_numpy(x), torch.from_numpy(y), blocks, torch.from_numpy(images), torch.zeros(1))


def bootstrap(samples: Samples, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of all nodes, and their lower bounds of 95 % by the basic bootstrap over images.

    Source: Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 5.2.
    """
    g = np.random.default_rng(0)
    images = samples.images.unique()
    found = [Gaussian()(samples, torch.Generator()).losses()]
    for _ in range(draws):
        drawn = g.choice(images.numpy(), len(images))
        rows = torch.cat([(samples.images == image).nonzero().flatten() for image in drawn])
        again = Samples(samples.x[rows], samples.y[rows], samples.blocks, samples.images[rows], samples.noise)
        found.append(Gaussian()(again, torch.Generator()).losses())
    losses, replicates = found[0].numpy(), torch.stack(found[1:]).numpy()
    return losses, 2 * losses - np.quantile(replicates, 0.95, axis=0)


def test_the_bootstrap_agrees_with_the_test_on_independent_rows():
    g = np.random.default_rng(5)
    x = g.normal(size=(400, 2))
    y = 0.5 * x[:, :1] + g.normal(size=(400, 1))
    samples = samples_of(x, y, np.arange(400))
    _, lower = bootstrap(samples, 100)
    info = Gaussian()(samples, torch.Generator())
    assert info.confidence(0, float(lower[0])) == pytest.approx(0.95, abs=0.04)
    assert lower[1] < 0.002


def test_the_bootstrap_by_image_does_not_count_positions_as_samples():
    """Every row is there 16 times: the test of independent rows is fooled, the bootstrap is not."""
    g = np.random.default_rng(6)
    found = []
    for _ in range(10):
        x, y = g.normal(size=(50, 1)), g.normal(size=(50, 1))
        samples = samples_of(np.repeat(x, 16, 0), np.repeat(y, 16, 0), np.repeat(np.arange(50), 16))
        fooled = Gaussian()(samples, torch.Generator()).confidence(0) > 0.95
        found.append((fooled, bool(bootstrap(samples, 40)[1][0] > 0)))
    assert sum(fooled for fooled, _ in found) >= 3
    assert sum(kept for _, kept in found) <= 2
