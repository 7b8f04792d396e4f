"""The Gaussian estimator: closed forms, scikit-learn's estimate, ranks, hinges and metrics."""

import numpy as np
import pytest
import torch
from sklearn.feature_selection import mutual_info_regression

from mipp.estimators import Gaussian, Information, Samples
from mipp.plan.elimination import terc


def fitted(estimator, x, y, seed=0, noise=0.5) -> Information:
    return estimator(Samples.of(x, y, noise), torch.Generator().manual_seed(seed))


def linear_gaussian(features, targets, rows, seed=0):
    """Samples, and I(X; Y) in nats from the covariances they were drawn with."""
    g = np.random.default_rng(seed)
    mixing = g.normal(size=(features, features)) / np.sqrt(features) + np.eye(features)
    weight = g.normal(size=(features, targets)) / np.sqrt(features)
    x = g.normal(size=(rows, features)) @ mixing
    y = x @ weight + g.normal(size=(rows, targets))
    signal = weight.T @ mixing.T @ mixing @ weight
    return torch.from_numpy(x), torch.from_numpy(y), 0.5 * np.linalg.slogdet(np.eye(targets) + signal)[1]


@pytest.mark.parametrize(("features", "targets"), [(1, 1), (8, 8), (64, 1), (1, 64), (64, 64)])
def test_the_closed_form_is_that_of_the_covariances(features, targets):
    """Up to the bias of plug-in estimates, n m / 2N, and two standard errors."""
    rows = 20_000
    x, y, expected = linear_gaussian(features, targets, rows)
    found = fitted(Gaussian(), x, y, noise=0.0).total()
    assert found - features * targets / (2 * rows) == pytest.approx(
        expected, abs=2 * np.sqrt(min(features, targets) / rows)
    )


@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_marginals_agree_with_nearest_neighbours(correlation):
    """Within 0.05 nats of scikit-learn's k-NN estimate (Kraskov et al. 2004)."""
    g = np.random.default_rng(0)
    x = g.normal(size=(3000, 1))
    y = correlation * x + np.sqrt(1 - correlation**2) * g.normal(size=(3000, 1))
    expected = mutual_info_regression(x, y[:, 0], random_state=0)[0]
    found = float(fitted(Gaussian(), torch.from_numpy(x), torch.from_numpy(y), noise=0.0).marginal()[0])
    assert found == pytest.approx(expected, abs=0.05)


def test_ranks_make_monotone_maps_of_a_column_irrelevant():
    g = np.random.default_rng(0)
    x = g.normal(size=(3000, 1))
    y = 0.8 * x + 0.6 * g.normal(size=(3000, 1))
    bent = torch.from_numpy(np.exp(2 * x)), torch.from_numpy(y**3)
    ranked = fitted(Gaussian(ranks=True), *bent, noise=0.0)
    straight = fitted(Gaussian(ranks=True), torch.from_numpy(x), torch.from_numpy(y), noise=0.0)
    assert ranked.total() == pytest.approx(straight.total(), abs=1e-6)
    assert ranked.total() == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.03)
    assert fitted(Gaussian(), *bent, noise=0.0).total() < 0.3  # the closed form without ranks misses half of it


def test_a_basis_of_hinges_sees_a_curve_in_one_feature():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=g)
    y = x[:, :1].square() + 0.3 * torch.randn(2000, 1, generator=g)
    assert float(fitted(Gaussian(), x, y, noise=0.0).losses()[0]) < 0.05
    info = fitted(Gaussian(basis=6), x, y, noise=0.0)
    assert float(info.losses()[0]) > 0.8
    assert float(info.losses()[1]) < 0.01
    assert terc(info, 0.95) == (0,)


def test_a_metric_of_the_target_weighs_its_columns():
    """The inverse covariance of much noise is a metric: losses tend to half the squared error in it."""
    from mipp.estimators import GaussianInformation

    g = np.random.default_rng(0)
    x = g.normal(size=(500, 3))
    y = x @ g.normal(size=(3, 2)) + g.normal(size=(500, 2))
    root = g.normal(size=(2, 2))
    metric = 1e-6 * (root @ root.T + np.eye(2))
    joint = torch.from_numpy(np.cov(np.hstack([x, y]).T, bias=True))
    noise = torch.from_numpy(np.linalg.inv(metric))
    blocks = torch.arange(3)[:, None]
    info = GaussianInformation(joint[:3, :3], joint[:3, 3:], joint[3:, 3:], blocks, noise, 500)

    def error(stay):
        a = x[:, stay] - x[:, stay].mean(0)
        rest = (y - y.mean(0)) - a @ np.linalg.lstsq(a, y - y.mean(0), rcond=None)[0]
        return 0.5 * np.trace(rest @ metric @ rest.T) / 500

    for node in range(3):
        expected = error([i for i in range(3) if i != node]) - error([0, 1, 2])
        assert info.loss(node) == pytest.approx(expected, rel=1e-3)
