"""Information of nodes that are taken to be independent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mipp.estimators import GaussianInformation, SumInformation, apart, by_node, variances_apart


def block_diagonal(parts: list[torch.Tensor], size: int) -> torch.Tensor:
    """A covariance in which the parts are independent."""
    xx = torch.zeros(size, size, dtype=torch.float64)
    for part in parts:
        factor = torch.randn(len(part), 2 * len(part), dtype=torch.float64)
        xx[part[:, None], part[None, :]] = factor @ factor.mT
    return xx


def losses_of(xx, weight, parts, blocks, floor) -> torch.Tensor:
    moments = [(xx[p[:, None], p[None, :]], 1000) for p in parts]
    return SumInformation(apart(weight, parts, moments, blocks, floor, 1.0)).losses()


def test_where_nodes_are_independent_node_wise_statistics_lose_nothing():
    blocks = torch.arange(12).reshape(4, 3)
    xx, weight = block_diagonal(list(blocks), 12), torch.randn(5, 12, dtype=torch.float64)
    floor = torch.rand(5, dtype=torch.float64) + 0.5
    exact = GaussianInformation(xx, xx @ weight.mT, weight @ xx @ weight.mT, blocks, floor, 1000).losses()
    own = xx[blocks[:, :, None], blocks[:, None, :]]
    torch.testing.assert_close(by_node(weight, blocks, own, floor, 1000).losses(), exact, rtol=1e-6, atol=1e-9)


@given(
    nodes=st.integers(1, 200), width=st.integers(1, 9), targets=st.integers(1, 150), seed=st.integers(0, 99),
    kind=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_nodes_by_themselves_and_variances_are_those_of_the_formula(nodes, width, targets, seed, kind):
    """In float64 whatever the type of the weight, and for nodes in any places."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(nodes * width, generator=generator)
    blocks = order.reshape(nodes, width)
    weight = torch.randn(targets, nodes * width, generator=generator).to(kind)
    factor = torch.randn(nodes, width, width + 2, generator=generator, dtype=torch.float64)
    covariances, floor = factor @ factor.mT, torch.rand(targets, generator=generator, dtype=torch.float64)
    floor[0] = 0  # a target without noise tells nothing
    found = by_node(weight, blocks, covariances, floor, 1000)
    inverse = torch.where(floor > 0, 1 / floor, 0.0)
    spread = torch.zeros(targets, dtype=torch.float64)
    for node in range(nodes):
        own = weight.double()[:, blocks[node]]
        spread += (own @ covariances[node] @ own.mT).diagonal()
        gain = covariances[node] @ (own.mT * inverse) @ own
        value = 0.5 * torch.logdet(torch.eye(width, dtype=torch.float64) + gain)
        assert float(found.marginal()[node]) == pytest.approx(float(value), rel=1e-9, abs=1e-9)
    torch.testing.assert_close(variances_apart(weight, [(blocks, covariances)]), spread, rtol=1e-10, atol=0)


def test_where_positions_are_independent_channel_wise_statistics_give_an_upper_bound():
    """Exact for targets that read one position; never below the truth for those that read several."""
    blocks = torch.arange(12).reshape(4, 3)
    positions = list(blocks.mT.contiguous())
    xx, weight = block_diagonal(positions, 12), torch.randn(6, 12, dtype=torch.float64)
    floor = torch.rand(6, dtype=torch.float64) + 0.5
    for mixed in (True, False):
        if not mixed:
            for position, columns in enumerate(positions):
                weight[[t for t in range(6) if t % 3 != position], columns[:, None]] = 0
        exact = GaussianInformation(xx, xx @ weight.mT, weight @ xx @ weight.mT, blocks, floor, 1000).losses()
        found = losses_of(xx, weight, positions, blocks, floor)
        assert (found >= exact - 1e-9).all()
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-9)
