"""Law 6: TERC and backward elimination, on truth tables (no estimator) and on known Gaussians."""

import math
from collections import Counter
from itertools import product
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mipp.estimators import GaussianInformation, IndependentInformation, SumInformation
from mipp.plan.elimination import Elimination, backward_elimination, elimination_along, terc, with_scarcity


class TruthTable:
    """Exact I(X_S; Y) where every row of a table of discrete values is equally likely."""

    def __init__(self, rows: list[tuple[int, ...]], target: list[int]) -> None:
        self.rows, self.target = rows, target
        self.num_nodes = len(rows[0])
        self.alive = set(range(self.num_nodes))

    def of(self, nodes) -> float:
        """Mutual information in nats by counting."""
        n = len(self.rows)
        x = [tuple(row[i] for i in sorted(nodes)) for row in self.rows]
        pairs, xs, ys = Counter(zip(x, self.target, strict=True)), Counter(x), Counter(self.target)
        return sum(c / n * log(c * n / (xs[a] * ys[b])) for (a, b), c in pairs.items())

    def marginal(self):
        return torch.tensor([self.of({i}) for i in range(self.num_nodes)], dtype=torch.float64)

    def losses(self):
        whole = self.of(self.alive)
        values = [whole - self.of(self.alive - {i}) if i in self.alive else float("inf") for i in range(self.num_nodes)]
        return torch.tensor(values, dtype=torch.float64)

    def remove(self, node):
        self.alive.remove(node)

    def loss(self, node):
        return float(self.losses()[node])

    def confidence(self, node, margin=0.0):
        return 1.0 if self.loss(node) > margin + 1e-9 else 0.0

    def total(self):
        return self.of(self.alive)


def table(inputs: int, columns, target) -> TruthTable:
    """All combinations of `inputs` bits; nodes and target as functions of the bits."""
    bits = list(product([0, 1], repeat=inputs))
    return TruthTable([tuple(c(b) for c in columns) for b in bits], [target(b) for b in bits])


def bit(i):
    return lambda b: b[i]


both = pytest.mark.parametrize("order", ["mi", "loss", "greedy"])


@both
def test_of_copies_one_stays(order):
    info = table(2, [bit(0), bit(0), bit(1), bit(0), bit(1)], lambda b: 2 * b[0] + b[1])
    kept = terc(info, 0.95, order)
    assert len(kept) == 2
    assert len(set(kept) & {0, 1, 3}) == 1


@both
def test_noise_goes(order):
    info = table(4, [bit(0), bit(2), bit(1), bit(3)], lambda b: b[0] + 2 * b[1])
    assert terc(info, 0.95, order) == (0, 2)


@both
def test_both_halves_of_an_xor_stay(order):
    info = table(3, [bit(0), bit(2), bit(1)], lambda b: b[0] ^ b[1])
    assert terc(info, 0.95, order) == (0, 2)


@both
def test_an_xor_with_a_copy_keeps_one_of_the_copies(order):
    info = table(2, [bit(0), bit(1), bit(1)], lambda b: b[0] ^ b[1])
    kept = terc(info, 0.95, order)
    assert len(kept) == 2
    assert 0 in kept


@both
def test_least_informative_first_keeps_only_the_sum(order):
    """Y = X1 = X2 + X3: the parts are tested first, so that the set is minimal."""
    info = table(2, [lambda b: b[0] + b[1], bit(0), bit(1)], lambda b: b[0] + b[1])
    assert terc(info, 0.95, order) == (0,)


@both
def test_nothing_stays_where_nothing_informs(order):
    info = table(2, [bit(0), bit(1)], lambda b: 0)
    kept = terc(info, 0.95, order)
    assert kept == ()


@settings(max_examples=40)
@given(
    target=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    columns=st.lists(st.lists(st.integers(0, 1), min_size=8, max_size=8), min_size=1, max_size=5),
    order=st.sampled_from(["mi", "loss", "greedy"]),
)
def test_terc_keeps_all_information_and_no_redundant_node(target, columns, order):
    """The defining property, on random truth tables: I(kept; Y) = I(all; Y), and every kept node is needed."""
    rows = list(zip(*columns, strict=True))
    info = TruthTable(rows, target)
    whole = info.of(set(range(len(columns))))
    kept = set(terc(info, 0.95, order))
    oracle = TruthTable(rows, target)
    assert oracle.of(kept) == pytest.approx(whole, abs=1e-8)
    # one pass tests each node against those that are left then; what stays was needed there, and still is in fewer
    if order == "greedy":
        assert all(oracle.of(kept) - oracle.of(kept - {i}) > 1e-9 for i in kept)


@settings(max_examples=40)
@given(
    target=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    columns=st.lists(st.lists(st.integers(0, 1), min_size=8, max_size=8), min_size=1, max_size=5),
    order=st.sampled_from(["mi", "loss", "greedy"]),
)
def test_elimination_removes_every_node_once_and_its_losses_add_up(target, columns, order):
    rows = list(zip(*columns, strict=True))
    found = backward_elimination(TruthTable(rows, target), order)
    oracle = TruthTable(rows, target)
    everything = set(range(len(columns)))
    assert sorted(found.order) == sorted(everything)
    assert len(found.loss) == len(everything) + 1
    for k in range(len(everything) + 1):
        left = everything - set(found.order[:k])
        assert found.loss[k] == pytest.approx(oracle.of(everything) - oracle.of(left), abs=1e-8)
    assert all(b >= a for a, b in zip(found.loss, found.loss[1:], strict=False))


@settings(max_examples=30)
@given(
    target=st.lists(st.integers(0, 3), min_size=16, max_size=16),
    columns=st.lists(st.lists(st.integers(0, 1), min_size=16, max_size=16), min_size=2, max_size=5),
)
def test_greedy_removes_the_least_loss_and_then_the_least_marginal(target, columns):
    """Against brute force; ties to a part in 10^9."""
    rows = list(zip(*columns, strict=True))
    found = backward_elimination(TruthTable(rows, target), "greedy")
    oracle = TruthTable(rows, target)
    left = set(range(len(columns)))
    for node in found.order:
        loss = {i: oracle.of(left) - oracle.of(left - {i}) for i in left}
        assert loss[node] <= min(loss.values()) + 1e-8
        tied = [i for i in left if loss[i] <= min(loss.values()) + 1e-12]
        if node in tied:
            assert oracle.of({node}) <= min(oracle.of({i}) for i in tied) + 1e-8
        left.remove(node)


def test_single_pass_goes_by_the_marginal():
    info = table(3, [bit(2), lambda b: b[0] + 2 * b[1], bit(0)], lambda b: b[0] + 2 * b[1])
    assert backward_elimination(info, "mi").order == (0, 2, 1)


def test_leaving_one_out_goes_by_what_each_loses_while_all_others_are_there():
    """Two copies lose nothing by themselves, so they go first, one and then the other, though the second is missed."""
    info = table(3, [bit(0), bit(2), bit(0), bit(1)], lambda b: 2 * b[0] + b[2])
    found = backward_elimination(info, "loss")
    assert found.order == (3, 0, 2, 1)
    assert found.loss[2:] == pytest.approx((0.0, math.log(2), 2 * math.log(2)))


def test_ties_are_broken_by_position():
    rows = [(a, a, a) for a in (0, 1)]
    assert backward_elimination(TruthTable(rows, [0, 1]), "greedy").order == (0, 1, 2)
    assert backward_elimination(TruthTable(rows, [0, 1]), "mi").order == (0, 1, 2)


def test_sensitivity_is_the_share_of_information_that_each_tenth_of_the_nodes_carries():
    shares = Elimination(tuple(range(20)), tuple(float(k) for k in range(21))).sensitivity()
    assert shares == pytest.approx([tenth / 10 for tenth in range(11)])
    assert Elimination((0, 1), (0.0, 0.0, 0.0)).sensitivity() == ()


def test_kept_is_the_end_of_the_order_in_ascending_positions():
    found = Elimination((2, 0, 3, 1), (0.0, 0.0, 0.1, 0.2, 0.3))
    assert [found.kept(n) for n in range(5)] == [(), (1,), (1, 3), (0, 1, 3), (0, 1, 2, 3)]


def gaussian(x: np.ndarray, y: np.ndarray) -> GaussianInformation:
    joint = torch.from_numpy(np.cov(np.hstack([x, y]).T, bias=True))
    f = x.shape[1]
    zero = torch.zeros(y.shape[1], dtype=torch.float64)
    blocks = torch.arange(f).reshape(f, 1)
    return GaussianInformation(joint[:f, :f], joint[:f, f:], joint[f:, f:], blocks, zero, len(x))


@settings(max_examples=60)
@given(st.lists(st.floats(0, 10, allow_subnormal=False), min_size=1, max_size=12))  # these have fewer digits
def test_scarce_information_is_dearer_the_less_is_left(steps):
    """Never cheaper, as good as the same where little is gone, steeper at every step of a convex curve."""
    loss = np.concatenate([[0.0], np.cumsum(sorted(steps))])
    found = np.array(with_scarcity(Elimination(tuple(range(len(steps))), tuple(loss))).loss)
    assert (found >= loss).all()
    if loss[-1] > 0:
        little = loss < 0.01 * loss[-1]
        assert np.allclose(found[little], loss[little], rtol=0.01)
        assert found[-1] > 5 * loss[-1]
        assert (np.diff(found, 2) >= -1e-9 * found[-1]).all()


@pytest.mark.parametrize("whole", [0.0, float("inf")])
def test_scarcity_leaves_curves_without_an_end_alone(whole):
    curve = Elimination((0,), (0.0, whole))
    assert with_scarcity(curve) == curve


@both
def test_a_sum_of_gaussians_keeps_only_the_sum(order):
    g = np.random.default_rng(0)
    parts = g.normal(size=(2000, 2))
    x = np.hstack([parts.sum(1, keepdims=True), parts])
    y = x[:, :1] + 0.3 * g.normal(size=(2000, 1))
    assert terc(gaussian(x, y), 0.95, order) == (0,)


@both
def test_gaussian_copies_and_noise_go(order):
    g = np.random.default_rng(1)
    base = g.normal(size=(2000, 2))
    x = np.hstack([base, base[:, :1], g.normal(size=(2000, 1))])
    y = base @ g.normal(size=(2, 2)) + 0.5 * g.normal(size=(2000, 2))
    kept = terc(gaussian(x, y), 0.999, order)
    assert len(kept) == 2
    assert 1 in kept


def test_the_linear_estimator_does_not_see_an_xor():
    """Documented: second moments carry no XOR; a non-linear estimator is needed for it."""
    bits = np.array(list(product([0, 1], repeat=2)) * 50, float)
    y = (bits[:, :1] != bits[:, 1:]).astype(float)
    assert terc(gaussian(bits, y), 0.95, "mi") == ()


def test_removals_in_a_given_order_lose_what_backward_elimination_says_of_its_own():
    rows = list(product((0, 1), repeat=3))
    target = [a + 2 * b * c for a, b, c in rows]
    found = backward_elimination(TruthTable(rows, target))
    assert elimination_along(TruthTable(rows, target), found.order) == found
    other = elimination_along(TruthTable(rows, target), found.order[::-1])
    assert other.order == found.order[::-1]
    assert other.loss[-1] == pytest.approx(found.loss[-1])


class Unsaid:
    """Information that does not say that it is a sum over nodes."""

    def __init__(self, of: SumInformation) -> None:
        self.num_nodes = of.num_nodes
        self.marginal, self.losses, self.loss, self.remove = of.marginal, of.losses, of.loss, of.remove
        self.among, self.remove_all, self.confidence, self.total = of.among, of.remove_all, of.confidence, of.total


@pytest.mark.parametrize("order", ["greedy", "mi", "loss"])
@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0, 1e-3]) | st.floats(0, 9, width=16), min_size=1, max_size=150)
)
def test_independent_nodes_go_by_what_they_bring(order, values):
    def made() -> SumInformation:
        first = torch.tensor(values, dtype=torch.float64)
        return SumInformation([IndependentInformation(own, (1, 1), 9) for own in (first, 2 * first.flip(0))])

    found, expected = backward_elimination(made(), order), backward_elimination(Unsaid(made()), order)
    assert found.order == expected.order
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
