"""The perceptrons of the paper: known information, and equal training of what is compared."""

import numpy as np
import pytest
import torch

from mipp.estimators import MLP, Information, Samples, Surrogate

SMALL_MLP = MLP(hidden=(32, 32), initial_iterations=300, ordering_iterations=60, retrain_iterations=80)


SMALL_SURROGATE = Surrogate(hidden=(64,), iterations=400)


nonlinear = pytest.mark.parametrize(
    "estimator", [SMALL_SURROGATE, pytest.param(SMALL_MLP, marks=pytest.mark.slow)], ids=["surrogate", "mlp"]
)


def fitted(estimator, x, y, seed=0, noise=0.5) -> Information:
    return estimator(Samples.of(x, y, noise), torch.Generator().manual_seed(seed))


def bits(seed=0, rows=1200):
    return torch.randint(0, 2, (rows, 4), generator=torch.Generator().manual_seed(seed)).T


def columns(*c):
    return torch.stack([x.float() for x in c], 1)


def linear_gaussian(features, targets, rows, seed=0):
    """Samples, and I(X; Y) in nats from the covariances they were drawn with."""
    g = np.random.default_rng(seed)
    mixing = g.normal(size=(features, features)) / np.sqrt(features) + np.eye(features)
    weight = g.normal(size=(features, targets)) / np.sqrt(features)
    x = g.normal(size=(rows, features)) @ mixing
    y = x @ weight + g.normal(size=(rows, targets))
    signal = weight.T @ mixing.T @ mixing @ weight
    return torch.from_numpy(x), torch.from_numpy(y), 0.5 * np.linalg.slogdet(np.eye(targets) + signal)[1]


@nonlinear
def test_the_perceptrons_reach_the_explained_variance_of_a_linear_gaussian(estimator):
    """Unit-variance Gaussians about a prediction: the information is half the explained variance."""
    x, y, _ = linear_gaussian(4, 3, 4000)
    design = np.hstack([np.ones((len(x), 1)), x.numpy()])
    rest = y.numpy() - design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    expected = 0.5 * float((1 - rest.var(0) / y.numpy().var(0)).sum())
    assert fitted(estimator, x, y).total() == pytest.approx(expected, rel=0.1)


@nonlinear
def test_the_perceptrons_reach_the_entropy_of_a_class(estimator):
    """I(X; Y) = H(Y) where X decides Y."""
    a, b, _, _ = bits()
    assert fitted(estimator, columns(a, b), 2 * a + b).total() == pytest.approx(np.log(4), rel=0.02)


def test_what_is_under_trained_is_compared_with_what_was_trained_as_long():
    """After ten steps further training helps more than a weak node is worth; it must not look free for that."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 4, generator=g)
    y = x @ torch.tensor([[1.0], [1.0], [1.0], [0.6]]) + 0.1 * torch.randn(2000, 1, generator=g)
    info = fitted(MLP(hidden=(32, 32), initial_iterations=10, retrain_iterations=100), x, y)
    assert info.loss(3) > 0.01
