"""ThiNet's greedy order and least squares against brute force."""

import numpy as np
import torch
from tasks import chain, task
from torch import nn

import mipp
from mipp.methods import (
    ThiNet,
)
from mipp.methods.thinet import removal_order, scale_factors


def test_thinet_grows_the_removed_set_by_the_least_sum_of_squares():
    contributions = torch.randn(50, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    removed: list[int] = []
    for _ in range(4):
        left = [i for i in range(4) if i not in removed]
        sums = {i: float(contributions[:, [*removed, i]].sum(1).square().sum()) for i in left}
        removed.append(min(sums, key=sums.get))
    order = removal_order(contributions.mT @ contributions)
    assert order.argsort().tolist() == removed


def test_thinet_prefers_nodes_that_cancel_to_small_ones():
    x = torch.randn(100, dtype=torch.float64)
    contributions = torch.stack([3 * x, -3 * x, torch.randn(100).double(), torch.randn(100).double()], 1)
    order = removal_order(contributions.mT @ contributions).argsort().tolist()
    assert order.index(1) == order.index(0) + 1 or order.index(0) == order.index(1) + 1


def test_thinet_counts_what_a_sampled_output_receives():
    """With one position and one output there is nothing to sample: contributions are input times weight."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    given = task(model)
    hidden = torch.cat([model[:2](b.call.args[0]) for b in given.batches]).detach()
    gram = hidden * model[2].weight.detach()
    torch.testing.assert_close(ThiNet().rank(given)["0"], removal_order(gram.mT @ gram) / 6)


def test_thinet_compares_places_in_the_order_across_groups_of_any_size():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    plan = ThiNet(scope="global").plan(task(model), mipp.Budget(nodes=0.5))
    assert plan.widths == {"0": 16, "2": 2}


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.same = self.b

    def forward(self, x):
        return self.same(self.a(x).relu())


def test_thinet_rescales_a_weight_under_both_of_its_names():
    model = Aliased().double()
    _, state = ThiNet(rescale=True).plan(task(model), mipp.Budget(nodes=0.5))
    assert torch.equal(state["b.weight"], state["same.weight"])
    assert not torch.equal(state["b.weight"], model.b.weight)


def test_thinet_rescales_by_least_squares():
    contributions = torch.randn(60, 5, dtype=torch.float64)
    expected = np.linalg.lstsq(contributions[:, [0, 2, 3]].numpy(), contributions.sum(1).numpy(), rcond=None)[0]
    found = scale_factors(contributions.mT @ contributions, (0, 2, 3))
    torch.testing.assert_close(found[[0, 2, 3]], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    model = chain()
    plan, state = ThiNet(rescale=True).plan(task(model), mipp.Budget(nodes=0.5))
    ratio = state["2.weight"] / model[2].weight.detach()
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))  # one factor per node that is read
    assert (ratio[0, list(plan.kept["0"])] != 1).all()
    assert torch.equal(state["0.weight"], model[0].weight)
