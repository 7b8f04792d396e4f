"""One contract for all estimators, and the truth tables of TERC."""

import pytest
import torch

import mipp
from mipp.errors import CalibrationError, MippError
from mipp.estimators import MLP, Gaussian, Information, Samples, Surrogate
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
    """Properties that selection relies on, whatever the estimator."""

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


def test_an_estimator_that_is_registered_is_known_to_all_who_take_one_by_name(monkeypatch):
    made = []

    class Counting(Gaussian):
        def __call__(self, samples, generator):
            made.append(len(samples.x))
            return super().__call__(samples, generator)

    monkeypatch.setitem(mipp.estimators.ESTIMATORS, "counting", lambda: Counting(ranks=True))
    model, data = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)), torch.randn(64, 3)
    mipp.prune(model, [data], mipp.Budget(nodes=2), mipp.methods.MIPP("counting"), compensate=False, progress=False)
    mipp.FeatureSelector("counting", num_features=2).fit(data.numpy(), data[:, 0].numpy())
    assert made == [64] * len(made)
    assert len(made) >= 2
    with pytest.raises(mipp.MippError, match=r"estimator='kernel' is unknown; expected 'gaussian', .*'counting'"):
        mipp.methods.MIPP("kernel")
