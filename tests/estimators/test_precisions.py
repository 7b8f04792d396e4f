"""Nodes that are removed for many targets at once lose what they lose for each by itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mipp.estimators import GaussianInformation
from mipp.estimators.precisions import Precisions


def information(nodes: int, width: int, targets: int, seed: int) -> GaussianInformation:
    generator = torch.Generator().manual_seed(seed)
    features = nodes * width
    root = torch.randn(features, 2 * features, generator=generator, dtype=torch.float64)
    xx, weight = root @ root.mT / features, torch.randn(targets, features, generator=generator, dtype=torch.float64)
    xy, blocks, noise = xx @ weight.mT, torch.arange(features).reshape(nodes, width), torch.ones(targets)
    return GaussianInformation(xx, xy, weight @ xy, blocks, noise.double(), 1000)


def positive(matrices: int, features: int, seed: int) -> torch.Tensor:
    root = torch.randn(matrices, features, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT + 0.1 * torch.eye(features, dtype=torch.float64)


def test_more_features_than_are_copied_at_a_time_stay_in_their_places():
    covariances, alive = positive(2, 400, 0), torch.arange(400)[torch.arange(400) % 4 > 0]
    found = Precisions(torch.linalg.inv(covariances), torch.arange(400), 400)
    found.remove(list(range(0, 400, 4)), alive)
    assert found.matrices.shape == (2, 300, 300)
    expected = torch.linalg.inv(covariances[:, alive][:, :, alive])
    torch.testing.assert_close(found.of(alive), expected, rtol=1e-6, atol=1e-8)


@given(st.integers(2, 12), st.integers(1, 3), st.integers(1, 4), st.data())
def test_removed_one_after_the_other_or_at_once_the_rest_is_the_inverse_of_what_is_left(nodes, width, matrices, data):
    order = data.draw(st.permutations(range(nodes)))
    gone = data.draw(st.integers(1, nodes - 1))
    covariances = positive(matrices, nodes * width, nodes)
    alive = torch.tensor(sorted(order[gone:]))
    rows = (alive[:, None] * width + torch.arange(width)).flatten()
    expected = torch.linalg.inv(covariances[:, rows][:, :, rows])
    at_once, in_turn = (Precisions(torch.linalg.inv(covariances), torch.arange(nodes), nodes) for _ in range(2))
    at_once.remove(order[:gone], alive)
    for number, node in enumerate(order[:gone]):
        in_turn.remove([node], torch.tensor(sorted(order[number + 1 :])))
    for found in (at_once, in_turn):
        torch.testing.assert_close(found.of(alive), expected, rtol=1e-6, atol=1e-8)
        blocks = torch.stack([expected[:, s : s + width, s : s + width] for s in range(0, len(rows), width)], 1)
        torch.testing.assert_close(found.blocks[:, alive], blocks, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("width", [1, 2])
def test_joined_targets_lose_what_each_loses_by_itself(width):
    """More nodes go than are remembered, some of them at once, until all is made from scratch."""
    nodes = 90
    joined, apart = ([information(nodes, width, targets, targets) for targets in (3, 200, 7)] for _ in range(2))
    (together,) = GaussianInformation.join(joined)
    order = torch.randperm(nodes, generator=torch.Generator().manual_seed(0)).tolist()
    for some in (order[:1], order[1:40], order[40:41], order[41:80]):
        together.remove_all(some)
        for one in apart:
            one.remove_all(some)
        torch.testing.assert_close(together.losses(), sum(one.losses() for one in apart))
        for one, alone in zip(joined, apart, strict=True):
            torch.testing.assert_close(one.losses(), alone.losses())
            assert one.total() == pytest.approx(alone.total())
            assert one.loss(order[-1]) == pytest.approx(alone.loss(order[-1]))
            assert one.confidence(order[-1]) == pytest.approx(alone.confidence(order[-1]))
