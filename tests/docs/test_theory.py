"""The numerical examples of docs/theory.md."""

import math
from itertools import combinations, product

import pytest
import torch

from mipp.estimators import Gaussian, GaussianInformation, Samples
from mipp.plan.elimination import Elimination, terc, with_scarcity


def entropy(outcomes):
    """Bits, of equally likely outcomes."""
    counts = [outcomes.count(value) for value in set(outcomes)]
    return -sum(n / len(outcomes) * math.log2(n / len(outcomes)) for n in counts)


def information(x, y):
    return entropy(x) + entropy(y) - entropy(list(zip(x, y, strict=True)))


BITS = list(product((0, 1), repeat=2))


def test_preserving_what_the_next_layer_reads_does_not_preserve_what_is_known_of_the_data():
    layer, following, kept = BITS, [a for a, _ in BITS], [a for a, _ in BITS]
    assert information(kept, following) == information(layer, following) == 1
    assert (information(BITS, layer), information(BITS, kept)) == (2, 1)


def test_masks_may_tell_all_or_nothing_of_the_data_and_the_bound_does_not_move():
    """Masks that keep one of four nodes: the dense layer, which bounds them, is the same for both rules."""
    layer, constant, hashed = BITS, [0] * 4, [2 * a + b for a, b in BITS]
    bound = min(information(BITS, layer), math.log2(4))
    assert information(BITS, constant) == 0
    assert information(BITS, hashed) == bound == 2


def test_nats_and_squared_error_rank_nodes_differently_and_agree_under_much_noise():
    """Two nodes of two independent features: variance 9 at one target, and 3 at each of two others."""
    signals = torch.tensor([9.0, 0.0, 3.0, 3.0], dtype=torch.float64)
    first, second = losses(signals, noise=1.0)
    assert (first, second) == pytest.approx((0.5 * math.log(10), math.log(4)), rel=1e-6)
    assert first < second
    assert signals[:2].sum() > signals[2:].sum()
    first, second = losses(signals, noise=1e4)
    assert first / second == pytest.approx(9 / 6, rel=1e-3)


def losses(signals, noise):
    """Nats of each pair of features, where every feature reaches a target of its own with this variance."""
    floor = torch.full_like(signals, noise)
    blocks = torch.arange(len(signals)).reshape(-1, 2)
    eye = torch.eye(len(signals), dtype=torch.float64)
    return (
        GaussianInformation(eye, torch.diag(signals.sqrt()), torch.diag(signals), blocks, floor, 100).losses().tolist()
    )


def test_information_is_blind_to_the_scale_of_the_target():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x @ torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, other = (Gaussian()(Samples.of(x, scale * y, 1.0), torch.Generator()).losses() for scale in (1, 1e-3))
    torch.testing.assert_close(one, other)


def test_losses_along_a_chain_do_not_add_and_scarcity_assumes_that_shares_multiply():
    """Two erasure channels one behind the other, each of which lets half of the bits pass: a quarter arrives.

    A sum of losses says that nothing does. What scarcity adds is the rest of minus the logarithm of the product.
    """
    cases = list(product((0, 1), repeat=3))  # a bit, and whether each channel lets it pass
    sent, first, second = zip(*((b, b if p else "?", b if p and q else "?") for b, p, q in cases), strict=True)
    assert information(sent, first) == 0.5
    assert information(sent, second) == 0.5 * 0.5
    whole, lost = 2.0, 1.0
    priced = with_scarcity(Elimination((0, 1), (lost, whole))).loss[0]
    share = (priced - lost) / (-whole * math.log(1 - lost / whole) - lost)
    assert share == pytest.approx(0.3)


def test_a_layer_without_information_is_fatal_whatever_the_sum_says():
    """Half of each of two layers costs more than all of one, as sums go, and is the cheaper in what is priced."""
    half, empty = 0.6, 1.0
    assert 2 * half > empty
    curve = with_scarcity(Elimination((0, 1), (half, empty))).loss
    assert 2 * curve[0] < curve[1]


def test_the_order_of_tests_decides_how_many_nodes_stay():
    """Y = X1 = X2 + X3: all information stays in either order, in one node or in two."""
    parts = torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.cat([parts.sum(1, keepdim=True), parts], 1)
    noise = 0.1 * torch.randn(400, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    samples = Samples.of(x, x[:, :1] + noise)
    assert terc(Gaussian()(samples, torch.Generator()), 0.999) == (0,)
    first = Gaussian()(samples, torch.Generator())
    assert first.confidence(0) < 0.999
    first.remove(0)
    assert all(first.confidence(node) > 0.999 for node in (1, 2))


class Cover:
    """A set function: how many of nine targets the kept nodes know."""

    KNOWN = ("123", "456", "789", "1473", "1476", "1479", "1258")

    def __init__(self):
        self.num_nodes, self.kept = len(self.KNOWN), set(range(len(self.KNOWN)))

    def known(self, nodes):
        return len(set("".join(self.KNOWN[n] for n in nodes)))

    def marginal(self):
        return torch.tensor([float(len(k)) for k in self.KNOWN])

    def confidence(self, node, margin=0.0):
        return float(self.known(self.kept) > self.known(self.kept - {node}))

    def remove(self, node):
        self.kept.remove(node)


def test_least_informative_first_does_not_find_the_fewest_nodes():
    nodes = range(len(Cover.KNOWN))
    fewest = next(n for n in nodes for some in combinations(nodes, n) if Cover().known(some) == 9)
    assert fewest == 3
    assert terc(Cover(), 0.5, order="mi") == (3, 4, 5, 6)


def test_with_more_samples_the_same_confidence_keeps_more_nodes():
    """Y = WX exactly: the null hypothesis is false for every node, so the number of samples decides."""
    kept = []
    for samples in (64, 1024, 16384):
        g = torch.Generator().manual_seed(0)
        weight = torch.logspace(0, -3, 20, dtype=torch.float64)[:, None]
        x = torch.randn(samples, 20, generator=g, dtype=torch.float64)
        y = x @ weight + torch.randn(samples, 1, generator=g, dtype=torch.float64)
        kept.append(len(terc(Gaussian()(Samples.of(x, y), g), 0.95)))
    assert kept[0] < kept[1] < kept[2]
