"""A few nodes by themselves lose what they lose among all, in whatever order they go."""

import pytest
import torch

from mipp.estimators import Features, GaussianInformation, SumInformation, linear_information
from mipp.plan.elimination import backward_elimination


def linear(nodes: int, width: int, targets: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Covariance of the features, weight of a linear target, and the noise on it."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(nodes * width, nodes * width, generator=g, dtype=torch.float64)
    weight = torch.randn(targets, nodes * width, generator=g, dtype=torch.float64)
    xx = root @ root.mT / len(root) + 0.1 * torch.eye(len(root), dtype=torch.float64)
    return xx, weight, torch.rand(targets, generator=g, dtype=torch.float64) + 0.5


def information(nodes: int, width: int, targets: int, seed: int) -> GaussianInformation:
    xx, weight, noise = linear(nodes, width, targets, seed)
    blocks = torch.arange(nodes * width).reshape(nodes, width)
    return GaussianInformation(xx, xx @ weight.mT, weight @ xx @ weight.mT, blocks, noise, 1000)


@pytest.mark.parametrize("width", [1, 3])
def test_among_a_few_nodes_losses_are_those_among_all(width):
    parts = [information(12, width, 4, seed) for seed in (0, 1)]
    whole, few = SumInformation(parts), [7, 2, 9, 4]
    whole.remove(3)
    near = whole.among(torch.tensor(few))
    for place in (2, 0, 3):
        assert near.loss(place) == pytest.approx(whole.loss(few[place]), rel=1e-9)
        near.remove(place)
        whole.remove(few[place])
    assert near.loss(1) == pytest.approx(whole.loss(2), rel=1e-9)


@pytest.mark.parametrize(("width", "order"), [(1, "greedy"), (1, "mi"), (2, "greedy")])
def test_removals_of_many_at_once_lose_what_removals_one_by_one_lose(width, order):
    nodes = 150
    found = backward_elimination(information(nodes, width, 20, 5), order)
    alone = information(nodes, width, 20, 5)
    for node, before, after in zip(found.order, found.loss[:-1], found.loss[1:], strict=True):
        assert after - before == pytest.approx(alone.loss(node), rel=1e-6, abs=1e-9)
        alone.remove(node)
    assert sorted(found.order) == list(range(nodes))


class OneByOne:
    """The same information, which can only lose one node after the other."""

    def __init__(self, inner: GaussianInformation) -> None:
        self.num_nodes, self.inner = inner.num_nodes, inner
        self.marginal, self.losses, self.loss, self.remove = inner.marginal, inner.losses, inner.loss, inner.remove


@pytest.mark.parametrize("seed", range(3))
def test_removals_of_many_at_once_lose_as_little_as_the_greedy_order(seed):
    found = backward_elimination(information(150, 1, 20, seed))
    greedy = backward_elimination(OneByOne(information(150, 1, 20, seed)))
    for gone in (30, 75, 120):
        assert found.loss[gone] < 1.05 * greedy.loss[gone]
    assert found.loss[-1] == pytest.approx(greedy.loss[-1])


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("targets", [3, 7, 40])
def test_a_linear_target_is_known_by_its_weight(targets, scale):
    """Also where there are more targets than features, and where the noise is hardly any."""
    xx, weight, noise = linear(5, 2, targets, 3)
    noise = scale * noise
    blocks = torch.arange(10).reshape(5, 2)
    direct = GaussianInformation(xx, xx @ weight.mT, weight @ xx @ weight.mT, blocks, noise, 1000)
    found = linear_information(Features.of(xx), weight, blocks, noise, 1000)
    torch.testing.assert_close(found.marginal(), direct.marginal(), rtol=1e-6, atol=1e-9)
    for _ in range(3):
        torch.testing.assert_close(found.among(torch.tensor([0])).losses(), found.losses()[:1].numpy())
        torch.testing.assert_close(found.losses(), direct.losses(), rtol=1e-6, atol=1e-9)
        assert found.total() == pytest.approx(direct.total(), rel=1e-6)
        assert found.confidence(0, 0.1) == pytest.approx(direct.confidence(0, 0.1), rel=1e-6)
        node = 1 + int(direct.losses()[1:].argmin())
        found.remove(node)
        direct.remove(node)
    for one in (found, direct):
        one._left.refresh()
    torch.testing.assert_close(found.losses(), direct.losses(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("width", [1, 2])
def test_nodes_lose_the_same_after_those_that_went_first_are_forgotten(width):
    """More go than are remembered."""
    nodes = 40
    whole = information(nodes, width, 20, 2)
    near = whole.among(torch.arange(nodes))
    for node in torch.randperm(nodes, generator=torch.Generator().manual_seed(0)).tolist():
        assert near.loss(node) == pytest.approx(whole.loss(node), rel=1e-6)
        near.remove(node)
        whole.remove(node)
