"""Information of nodes that are taken to be independent."""

import torch

from mipp.estimators import GaussianInformation, SumInformation, apart


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
    torch.testing.assert_close(losses_of(xx, weight, list(blocks), blocks, floor), exact, rtol=1e-6, atol=1e-9)


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
