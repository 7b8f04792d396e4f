"""One contract for all estimators, the truth tables of TERC, closed forms, and scikit-learn's estimate."""

import numpy as np
import pytest
import torch
from sklearn.feature_selection import mutual_info_regression

from mipp.errors import CalibrationError, MippError
from mipp.estimators import MLP, Gaussian, Information, Samples, SumInformation, Surrogate
from mipp.plan.elimination import terc

SMALL_MLP = MLP(hidden=(32, 32), initial_iterations=300, ordering_iterations=60, retrain_iterations=80)
SMALL_SURROGATE = Surrogate(hidden=(64,), iterations=400)
ESTIMATORS = {"gaussian": Gaussian(), "surrogate": SMALL_SURROGATE, "mlp": SMALL_MLP}
every = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
most = pytest.mark.parametrize(
    "estimator",
    [Gaussian(), SMALL_SURROGATE, pytest.param(SMALL_MLP, marks=pytest.mark.slow)],
    ids=["gaussian", "surrogate", "mlp"],
)
nonlinear = pytest.mark.parametrize(
    "estimator", [SMALL_SURROGATE, pytest.param(SMALL_MLP, marks=pytest.mark.slow)], ids=["surrogate", "mlp"]
)


def fitted(estimator, x, y, seed=0, noise=0.5) -> Information:
    return estimator(Samples.of(x, y, noise), torch.Generator().manual_seed(seed))


def regression(rows=600, seed=0):
    """A strong node, a weaker one, noise, a constant, and a copy of the strong one."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=g)
    y = torch.stack([x[:, 0], 0.8 * x[:, 0] + 0.6 * x[:, 1]], 1) + 0.3 * torch.randn(rows, 2, generator=g)
    return torch.cat([x, torch.ones(rows, 1), x[:, :1]], 1), y


class TestContract:
    """What selection relies on, whatever the estimator."""

    @every
    def test_it_knows_who_informs_and_who_repeats(self, estimator):
        x, y = regression()
        info = fitted(estimator, x, y)
        assert info.num_nodes == 5
        marginal = info.marginal()
        assert marginal.shape == (5,)
        assert marginal[0] > marginal[1] > marginal[2] + 0.02
        assert abs(float(marginal[3])) < 0.05  # constant
        assert info.loss(3) == pytest.approx(0, abs=0.02)
        assert info.loss(4) == pytest.approx(0, abs=0.05)  # a copy, while the original is there
        assert info.loss(1) > 0.05
        total = info.total()
        info.remove(4)
        assert info.total() == pytest.approx(total, abs=0.1)
        assert info.loss(0) > 0.3  # now it is the only one
        losses = info.losses()
        assert torch.isinf(losses[4])
        assert int(losses[:4].argmax()) == 0
        assert losses[0] >= info.loss(0) - 0.05
        info.remove(0)
        assert info.total() < total - 0.3

    @every
    def test_confidence_separates_and_falls_with_the_margin(self, estimator):
        x, y = regression()
        info = fitted(estimator, x, y)
        assert info.confidence(1) > 0.95
        assert info.confidence(3) <= 0.5
        assert info.confidence(1, margin=2.0) < 0.5

    @most
    def test_asking_changes_nothing_and_the_seed_decides(self, estimator):
        x, y = regression(300)
        first, second = fitted(estimator, x, y, seed=3), fitted(estimator, x, y, seed=3)
        for node in (2, 0, 1):  # only the first one asks
            first.loss(node)
            first.confidence(node)
        first.losses(), first.marginal(), first.total()
        for info in (first, second):
            info.remove(2)
        assert first.loss(1) == pytest.approx(second.loss(1), abs=1e-6)
        assert first.total() == pytest.approx(second.total(), abs=1e-6)

    @most
    def test_features_of_no_node_are_always_there(self, estimator):
        """A copy that cannot be removed makes the original free."""
        x, y = regression()
        samples = Samples(x, y, torch.tensor([[0], [1]]), torch.arange(len(x)), torch.tensor([0.5, 0.5]))
        info = estimator(samples, torch.Generator().manual_seed(0))
        assert info.num_nodes == 2
        assert info.loss(0) < 0.05 < info.loss(1)

    @most
    def test_it_leaves_the_samples_and_the_global_generator_alone(self, estimator):
        x, y = regression(200)
        before, state = (x.clone(), y.clone()), torch.get_rng_state()
        info = fitted(estimator, x, y)
        info.remove(0)
        info.marginal()
        assert torch.equal(x, before[0])
        assert torch.equal(y, before[1])
        assert torch.equal(torch.get_rng_state(), state)

    @most
    def test_fewer_samples_than_nodes_do_not_break_it(self, estimator):
        x, y = torch.randn(12, 20), torch.randn(12, 2)
        info = fitted(estimator, x, y)
        info.remove(3)
        assert torch.isfinite(info.marginal()).all()
        assert torch.isfinite(info.losses()[:3]).all()

    @most
    def test_one_class_only_is_refused(self, estimator):
        with pytest.raises(CalibrationError, match="two classes"):
            fitted(estimator, torch.randn(20, 2), torch.zeros(20, dtype=torch.long))


def bits(seed=0, rows=1200):
    return torch.randint(0, 2, (rows, 4), generator=torch.Generator().manual_seed(seed)).T


def columns(*c):
    return torch.stack([x.float() for x in c], 1)


def kept(estimator, x, y):
    return terc(fitted(estimator, x, y, seed=1), 0.95, "mi", margin=0.05)


@nonlinear
class TestTruthTables:
    """Bits as nodes and a class as target; losses below 0.05 nats are none."""

    def test_of_copies_one_stays(self, estimator):
        a, b, _, _ = bits()
        found = kept(estimator, columns(a, a, b, a, b), 2 * a + b)
        assert len(found) == 2
        assert len({0, 1, 3} & set(found)) == 1

    def test_noise_goes(self, estimator):
        a, b, c, d = bits()
        assert kept(estimator, columns(a, c, b, d), 2 * a + b) == (0, 2)

    def test_both_halves_of_an_xor_stay(self, estimator):
        a, b, c, _ = bits()
        assert kept(estimator, columns(a, c, b), a ^ b) == (0, 2)

    def test_least_informative_first_keeps_only_the_sum(self, estimator):
        a, b, _, _ = bits()
        assert kept(estimator, columns(a + b, a, b), a + b) == (0,)

    def test_copies_of_one_of_three_equal_bits(self, estimator):
        """Is b1 = b2 = b3? Given three more copies of b1, one of the four stays."""
        a, b, c, _ = bits()
        found = kept(estimator, columns(a, b, c, a, a, a), ((a == b) & (b == c)).long())
        assert len(found) == 3
        assert {1, 2} <= set(found)

    def test_copies_of_all_three_equal_bits(self, estimator):
        a, b, c, _ = bits()
        found = kept(estimator, columns(a, b, c, a, b, c), ((a == b) & (b == c)).long())
        assert sorted(i % 3 for i in found) == [0, 1, 2]


def test_the_linear_estimator_sees_neither_an_xor_nor_equal_bits():
    """Documented: nor does it with an additive basis, because each bit alone says nothing."""
    a, b, c, _ = bits()
    for estimator in (Gaussian(), Gaussian(ranks=True), Gaussian(basis=3)):
        assert kept(estimator, columns(a, b), a ^ b) == ()
        assert fitted(estimator, columns(a, b, c), ((a == b) & (b == c)).long()).total() < 0.01


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


@pytest.mark.slow
def test_the_running_reference_forgets_what_the_fixed_one_remembers():
    """Each step costs little; against all nodes the losses add up."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=g)
    y = x.sum(1, keepdim=True) + 0.5 * torch.randn(2000, 1, generator=g)
    lost = {}
    for reference in ("fixed", "running"):
        settings = MLP(3, (32, 32), 400, 60, 120, reference=reference)
        info = fitted(settings, x, y)
        for node in (0, 1, 2):
            info.remove(node)
        lost[reference] = info.loss(3)
    assert lost["fixed"] > 2 * lost["running"] > 0


def test_what_is_under_trained_is_compared_with_what_was_trained_as_long():
    """After ten steps further training helps more than a weak node is worth; it must not look free for that."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 4, generator=g)
    y = x @ torch.tensor([[1.0], [1.0], [1.0], [0.6]]) + 0.1 * torch.randn(2000, 1, generator=g)
    info = fitted(MLP(hidden=(32, 32), initial_iterations=10, retrain_iterations=100), x, y)
    assert info.loss(3) > 0.01


def test_of_several_readers_the_sum_counts():
    x, y = regression(500)
    parts = [fitted(Gaussian(), x, y), fitted(Gaussian(), x, y[:, :1])]
    both = SumInformation([fitted(Gaussian(), x, y), fitted(Gaussian(), x, y[:, :1])])
    assert both.loss(1) == pytest.approx(sum(p.loss(1) for p in parts))
    assert both.total() == pytest.approx(sum(p.total() for p in parts))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(num_estimators=1),
        lambda: MLP(hidden=()),
        lambda: MLP(initial_iterations=0),
        lambda: MLP(critical="f"),
        lambda: MLP(loss_split="test"),
        lambda: MLP(reference="mean"),
        lambda: Surrogate(iterations=0),
        lambda: Surrogate(hidden=(0,)),
        lambda: Gaussian(basis=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(MippError, match="expected"):
        make()
