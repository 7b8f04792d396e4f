"""Parts of tensors are those that torch's own indexing gives."""

import pytest
import torch

from mipp.runtime.indexing import take, take_rows


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("places", [[], [2], [3, 0, 0, 1]])
def test_positions_along_any_dimension(dim, places):
    tensor, wanted = torch.randn(4, 5, 6), torch.tensor(places, dtype=torch.long)
    index = (slice(None),) * dim + (wanted,)
    assert torch.equal(take(tensor, dim, wanted), tensor[index])
    assert torch.equal(take(tensor.transpose(0, 1).transpose(0, 1), dim, wanted), tensor[index])


def test_rows_of_each_sample_at_places_of_its_own():
    samples, places = torch.randn(3, 5, 2), torch.tensor([[0, 4], [1, 1], [3, 2]])
    assert torch.equal(take_rows(samples, places), torch.stack([s[p] for s, p in zip(samples, places, strict=True)]))
    assert take_rows(samples, places[:, :0]).shape == (3, 0, 2)
