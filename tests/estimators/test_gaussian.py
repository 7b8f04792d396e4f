"""Law 4: Gaussian information agrees with log-determinants, is monotone, obeys the chain rule and is invariant."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mipp.errors import CalibrationError
from mipp.estimators import GaussianInformation
from mipp.estimators.features import Features

TOLERANCE = 1e-6  # the estimator adds 1e-9 of each feature's variance


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


def by_log_det(xx, xy, yy, noise, features) -> float:
    """I(X_S; Y + N) = (log det S_xx + log det S_yy - log det S_joint) / 2."""
    index = torch.as_tensor(list(features), dtype=torch.long)
    yy = yy + torch.diag(noise)
    own = xx[index][:, index]
    joint = torch.cat([torch.cat([own, xy[index]], 1), torch.cat([xy[index].mT, yy], 1)])
    return 0.5 * float(torch.logdet(own) + torch.logdet(yy) - torch.logdet(joint))


def blocks_of(nodes: int, width: int) -> torch.Tensor:
    return torch.arange(nodes * width).reshape(nodes, width)


def make(nodes=4, width=1, targets=3, seed=0, extra=0):
    """The estimator and the matrices behind it; `extra` features belong to no node."""
    xx, xy, yy, noise = covariance(nodes * width + extra, targets, seed)
    return GaussianInformation(xx, xy, yy, blocks_of(nodes, width), noise, 1000), (xx, xy, yy, noise)


def test_one_feature_and_one_target_have_the_textbook_value():
    """-log(1 - r^2) / 2."""
    for r in (0.0, 0.3, -0.9):
        one = torch.ones(1, 1, dtype=torch.float64)
        info = GaussianInformation(one, r * one, one, torch.zeros(1, 1, dtype=torch.long), torch.zeros(1), 100)
        expected = -0.5 * np.log(1 - r * r)
        assert info.total() == pytest.approx(expected, abs=TOLERANCE)
        assert float(info.marginal()[0]) == pytest.approx(expected, abs=TOLERANCE)
        assert float(info.losses()[0]) == pytest.approx(expected, abs=TOLERANCE)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 10**6), st.integers(0, 2))


@settings(max_examples=40)
@given(shapes)
def test_totals_marginals_and_losses_agree_with_log_determinants(shape):
    nodes, width, targets, seed, extra = shape
    info, (xx, xy, yy, noise) = make(nodes, width, targets, seed, extra)
    everything = range(nodes * width + extra)
    total = by_log_det(xx, xy, yy, noise, everything)
    assert info.total() == pytest.approx(total, rel=TOLERANCE, abs=TOLERANCE)
    marginal, losses = info.marginal(), info.losses()
    for node, block in enumerate(blocks_of(nodes, width).tolist()):
        alone = by_log_det(xx, xy, yy, noise, block)
        assert float(marginal[node]) == pytest.approx(alone, rel=TOLERANCE, abs=TOLERANCE)
        left = by_log_det(xx, xy, yy, noise, [i for i in everything if i not in block])
        assert float(losses[node]) == pytest.approx(total - left, rel=TOLERANCE, abs=TOLERANCE)


@settings(max_examples=30)
@given(shapes, st.randoms(use_true_random=False))
def test_down_dating_agrees_with_recomputation_in_every_order(shape, random):
    nodes, width, targets, seed, extra = shape
    info, (xx, xy, yy, noise) = make(nodes, width, targets, seed, extra)
    order = random.sample(range(nodes), nodes)
    left = list(range(nodes))
    for node in order[:-1]:
        info.remove(node)
        left.remove(node)
        features = [f for n in left for f in range(n * width, n * width + width)]
        features += range(nodes * width, nodes * width + extra)
        fresh = GaussianInformation(
            xx[features][:, features], xy[features], yy, blocks_of(len(left), width), noise, 1000
        )
        losses = info.losses()
        torch.testing.assert_close(losses[left], fresh.losses(), rtol=TOLERANCE, atol=TOLERANCE)
        assert torch.isinf(losses[[n for n in range(nodes) if n not in left]]).all()
        assert info.total() == pytest.approx(fresh.total(), rel=TOLERANCE, abs=TOLERANCE)


def test_down_dating_stays_exact_over_many_removals():
    info, (xx, xy, yy, noise) = make(nodes=120, targets=5, seed=3)
    left = list(range(120))
    for node in range(0, 110):
        info.remove(node)
        left.remove(node)
    expected = by_log_det(xx, xy, yy, noise, left)
    assert info.total() == pytest.approx(expected, rel=TOLERANCE)
    for node in left[:3]:
        without = by_log_det(xx, xy, yy, noise, [n for n in left if n != node])
        assert float(info.losses()[node]) == pytest.approx(expected - without, rel=1e-5, abs=TOLERANCE)


@settings(max_examples=20)
@given(shapes, st.randoms(use_true_random=False))
def test_the_losses_along_any_order_add_up_to_the_total(shape, random):
    """The chain rule; the features in no block keep what is left."""
    nodes, width, targets, seed, extra = shape
    info, (xx, xy, yy, noise) = make(nodes, width, targets, seed, extra)
    total, lost = info.total(), 0.0
    for node in random.sample(range(nodes), nodes):
        loss = float(info.losses()[node])
        assert loss >= -TOLERANCE  # monotone in the set
        lost += loss
        info.remove(node)
    rest = by_log_det(xx, xy, yy, noise, range(nodes * width, nodes * width + extra)) if extra else 0.0
    assert lost + rest == pytest.approx(total, rel=1e-5, abs=1e-5)


def test_invertible_maps_of_the_features_change_nothing():
    """Of all features for the total; within each node for the losses; of X only, as Y has noise."""
    info, (xx, xy, yy, noise) = make(nodes=3, width=2, seed=5)
    g = torch.Generator().manual_seed(1)
    whole = torch.randn(6, 6, generator=g, dtype=torch.float64)
    within = torch.block_diag(*torch.randn(3, 2, 2, generator=g, dtype=torch.float64))
    blocks = blocks_of(3, 2)
    mapped = GaussianInformation(whole @ xx @ whole.mT, whole @ xy, yy, blocks, noise, 1000)
    assert mapped.total() == pytest.approx(info.total(), rel=1e-5)
    mapped = GaussianInformation(within @ xx @ within.mT, within @ xy, yy, blocks, noise, 1000)
    torch.testing.assert_close(mapped.losses(), info.losses(), rtol=1e-5, atol=TOLERANCE)
    torch.testing.assert_close(mapped.marginal(), info.marginal(), rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e6])
def test_units_of_the_features_change_nothing(scale):
    info, (xx, xy, yy, noise) = make(seed=2)
    units = torch.tensor([scale, 1.0, 1.0, 1 / scale], dtype=torch.float64)
    mapped = GaussianInformation(units[:, None] * xx * units, units[:, None] * xy, yy, blocks_of(4, 1), noise, 1000)
    torch.testing.assert_close(mapped.losses(), info.losses(), rtol=1e-5, atol=TOLERANCE)


def test_invertible_maps_of_the_target_change_nothing_without_noise():
    xx, xy, yy, _ = covariance(4, 3, 7)
    zero = torch.zeros(3, dtype=torch.float64)
    map_ = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    first = GaussianInformation(xx, xy, yy, blocks_of(4, 1), zero, 1000)
    second = GaussianInformation(xx, xy @ map_.mT, map_ @ yy @ map_.mT, blocks_of(4, 1), zero, 1000)
    torch.testing.assert_close(first.losses(), second.losses(), rtol=1e-5, atol=TOLERANCE)


def test_nodes_of_scattered_features_are_taken_together():
    """A block is a set of positions, not a range."""
    xx, xy, yy, noise = covariance(6, 2, 9)
    blocks = torch.tensor([[0, 3], [5, 1], [4, 2]])
    info = GaussianInformation(xx, xy, yy, blocks, noise, 1000)
    info.remove(1)
    expected = by_log_det(xx, xy, yy, noise, [0, 3, 4, 2]) - by_log_det(xx, xy, yy, noise, [0, 3])
    assert float(info.losses()[2]) == pytest.approx(expected, rel=TOLERANCE)


def test_of_two_copies_either_is_free_and_then_the_other_is_not():
    xx, xy, yy, noise = covariance(3, 2, 4)
    twice = [0, 1, 2, 0]
    info = GaussianInformation(xx[twice][:, twice], xy[twice], yy, blocks_of(4, 1), noise, 1000)
    losses = info.losses()
    assert float(losses[[0, 3]].abs().max()) < 1e-6
    assert float(losses[[1, 2]].min()) > 1e-3
    info.remove(3)
    expected = by_log_det(xx, xy, yy, noise, [0, 1, 2]) - by_log_det(xx, xy, yy, noise, [1, 2])
    assert float(info.losses()[0]) == pytest.approx(expected, rel=1e-4)


def test_constant_features_and_targets_carry_nothing():
    xx, xy, yy, noise = covariance(3, 2, 6)
    xx[0], xx[:, 0], xy[0] = 0, 0, 0
    yy[1], yy[:, 1], xy[:, 1], noise[1] = 0, 0, 0, 0
    info = GaussianInformation(xx, xy, yy, blocks_of(3, 1), noise, 1000)
    assert float(info.losses()[0]) == pytest.approx(0, abs=TOLERANCE)
    assert float(info.marginal()[0]) == pytest.approx(0, abs=TOLERANCE)
    expected = by_log_det(xx[1:, 1:], xy[1:, :1], yy[:1, :1], noise[:1], [0, 1])
    assert info.total() == pytest.approx(expected, rel=TOLERANCE)


def test_a_target_that_is_constant_carries_nothing_at_all():
    zero = torch.zeros(2, 2, dtype=torch.float64)
    info = GaussianInformation(torch.eye(3).double(), torch.zeros(3, 2).double(), zero, blocks_of(3, 1), zero[0], 100)
    assert float(info.losses().abs().max()) == 0
    assert float(info.marginal().abs().max()) == 0
    info.remove(0)
    assert info.total() == pytest.approx(0, abs=TOLERANCE)


def test_a_covariance_that_rounding_made_indefinite_is_close_to_the_exact_one():
    """Fewer samples than features, multiplied in float32: of a rank below its size, up to rounding."""
    x = torch.randn(12, 30)
    rounded, weight = (x.mT @ x / len(x)).double(), torch.randn(2, 30).double()
    assert torch.linalg.eigvalsh(rounded)[0] < -1e-10

    def losses(xx):
        xy, noise = xx @ weight.mT, torch.ones(2, dtype=torch.float64)
        found = GaussianInformation(xx, xy, weight @ xy, blocks_of(10, 3), noise, len(x))
        return torch.cat([found.marginal(), found.losses()])

    torch.testing.assert_close(losses(rounded), losses(x.double().mT @ x.double() / len(x)), rtol=1e-3, atol=1e-4)


def test_the_matrices_given_are_not_changed():
    xx, xy, yy, noise = covariance(4, 3, 0)
    before = [t.clone() for t in (xx, xy, yy, noise)]
    info = GaussianInformation(xx, xy, yy, blocks_of(4, 1), noise, 100)
    info.losses()
    info.remove(0)
    assert all(torch.equal(a, b) for a, b in zip((xx, xy, yy, noise), before, strict=True))


def sample(features: int, seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, features)) @ g.normal(size=(features, features))
    return x, x[:, :1] * 0.5 - x[:, 1:2] + g.normal(size=(n, 1)) * 1.5


def estimated(x: np.ndarray, y: np.ndarray, nodes: int) -> GaussianInformation:
    joint = torch.from_numpy(np.cov(np.hstack([x, y]).T, bias=True))
    f = x.shape[1]
    zero = torch.zeros(y.shape[1], dtype=torch.float64)
    return GaussianInformation(joint[:f, :f], joint[:f, f:], joint[f:, f:], blocks_of(nodes, 1), zero, len(x))


def regression_confidence(x: np.ndarray, y: np.ndarray, node: int) -> float:
    """One minus the p-value of the F-test of leaving one regressor out, by two least-squares fits."""

    def rss(columns):
        design = np.hstack([np.ones((len(x), 1)), x[:, columns]])
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum())

    everything = list(range(x.shape[1]))
    full, less = rss(everything), rss([i for i in everything if i != node])
    freedom = len(x) - 1 - len(everything)
    return float(stats.f.cdf((less - full) / full * freedom, 1, freedom))


@pytest.mark.parametrize("nodes", [4, 2])
@pytest.mark.parametrize("seed", range(4))
def test_confidence_is_that_of_the_exact_f_test(nodes, seed):
    """Also with features that belong to no node: they use up degrees of freedom too."""
    x, y = sample(4, seed, n=14)
    info = estimated(x, y, nodes)
    for node in range(nodes):
        assert info.confidence(node) == pytest.approx(regression_confidence(x, y, node), abs=1e-5)


def test_confidence_is_uniform_where_a_node_adds_nothing():
    """With several targets and one feature per node: the test is exact, so its level is kept."""
    g = np.random.default_rng(0)
    found = []
    for _ in range(300):
        x, y = g.normal(size=(30, 3)), g.normal(size=(30, 2))
        y[:, 0] += x[:, 0]
        found.append(estimated(x, y, 3).confidence(2))
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_too_few_samples_are_refused_with_the_number_that_suffices():
    x, y = sample(4, 0, n=6)
    with pytest.raises(CalibrationError, match="at least 6"):
        estimated(x[:5], y[:5], 4).confidence(0)
    assert 0 <= estimated(x, y, 4).confidence(0) <= 1


def test_everything_can_be_eliminated_whatever_the_number_of_features():
    """Refreshing the factors must not need a node that is left."""
    from mipp.estimators import GaussianInformation
    from mipp.plan.elimination import backward_elimination

    for nodes, width in ((1, 1), (65, 1), (9, 9), (130, 2)):
        features = torch.randn(4 * nodes * width, nodes * width, dtype=torch.float64)
        weight = torch.randn(nodes * width, 3, dtype=torch.float64)
        xx = features.mT @ features / len(features)
        blocks = torch.arange(nodes * width).reshape(nodes, width)
        noise = torch.ones(3, dtype=torch.float64)
        parts = xx, xx @ weight, weight.mT @ xx @ weight, blocks, noise, len(features)
        total = GaussianInformation(*parts).total()
        elimination = backward_elimination(GaussianInformation(*parts))
        assert sorted(elimination.order) == list(range(nodes))
        assert elimination.loss[-1] == pytest.approx(total, rel=1e-6)


def test_covariances_of_few_samples_that_rounding_has_made_indefinite_are_inverted():
    x = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    covariance = (x.mT @ x / 40).double()
    rounded = covariance - 1e-6 * torch.eye(60, dtype=torch.float64)
    precision = Features.of(rounded).precision
    assert torch.linalg.eigvalsh(precision).min() > 0
    assert torch.isfinite(precision).all()
