"""Shifted and mirrored images, and the refit that reads them where rows are few."""

import pytest
import torch
from torch import nn

import mipp
from mipp.data.augmentation import Moves, Varied, move_images
from mipp.data.calibration import Batch, as_call
from mipp.runtime.tensor_store import TensorStore


def batches_of(images: torch.Tensor, sizes: list[int]) -> list[Batch]:
    return [Batch(as_call(part), len(part), None, number) for number, part in enumerate(images.split(sizes))]


def all_of(varied: Varied, sizes: list[int]) -> list[torch.Tensor]:
    """The images of every turn."""
    tensors = [batch.call.tensors[0] for batch in varied]
    turns = [tensors[start : start + len(sizes)] for start in range(0, len(tensors), len(sizes))]
    return [torch.cat(turn) for turn in turns]


def test_an_image_moves_by_whole_pixels_and_keeps_what_stays_inside():
    image = torch.zeros(1, 1, 16, 24)
    image[0, 0, 8, 12] = 1.0
    for down, right, mirrored in ((0, 0, False), (4, 6, False), (1, 5, True)):
        moves = Moves(torch.tensor([[down]]), torch.tensor([[right]]), torch.tensor([[mirrored]]))
        found = torch.nonzero(move_images(image, moves)[0, 0]).tolist()
        column = 12 - right + 3
        assert found == [[8 - down + 2, 23 - column if mirrored else column]]


def test_an_image_varies_in_the_same_way_whatever_batch_it_is_in():
    images = torch.randn(8, 3, 16, 16)
    one = all_of(Varied(batches_of(images, [8]), 2, [0], 8, TensorStore(0)), [8])
    two = all_of(Varied(batches_of(images, [3, 5]), 2, [0, 3], 8, TensorStore(1e9)), [3, 5])
    assert len(one) == 3
    assert torch.equal(one[0], images)
    assert not torch.equal(one[1], one[2])
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


def small_maps(width: int = 48) -> nn.Module:
    """A convolution of many inputs on maps of 3 x 3."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.Flatten(), nn.Linear(32, 5)
    ).double()


def refitted(images: torch.Tensor, variations: int | None, nodes: int = 24) -> nn.Module:
    result = mipp.prune(
        small_maps(), [images], mipp.Budget(widths={"0": nodes}), mipp.methods.L1(), progress=False,
        compensate=mipp.Refit(variations=variations, ridge=1e-3),
    )  # fmt: skip
    return result.model


def noise(count: int, seed: int) -> torch.Tensor:
    """Images that are as likely as when they are shifted or mirrored."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def test_where_rows_are_few_varied_images_bring_the_refit_nearer_to_the_dense_network_on_others():
    seen, fresh = noise(100, 0), noise(2000, 1)
    expected = small_maps()(fresh)
    errors = {times: float((refitted(seen, times)(fresh) - expected).detach().square().mean()) for times in (0, 3)}
    assert errors[3] < 0.8 * errors[0]


@pytest.mark.parametrize(("nodes", "count", "times"), [(24, 100, 1), (2, 400, 0)])
def test_images_are_varied_by_default_where_a_convolution_has_few_rows_an_input(nodes, count, times):
    images = noise(count, 0)
    found, expected = (refitted(images, variations, nodes) for variations in (None, times))
    other = refitted(images, 3 - times, nodes)
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, c) for a, c in zip(found.parameters(), other.parameters(), strict=True))


def test_nothing_but_images_is_varied():
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)), torch.randn(30, 6)
    found = [
        mipp.prune(
            model, [data], mipp.Budget(nodes=8), mipp.methods.L1(), compensate=mipp.Refit(variations=v), progress=False
        ).model
        for v in (0, 3)
    ]
    for a, b in zip(*(one.parameters() for one in found), strict=True):
        assert torch.equal(a, b)


def test_a_negative_number_of_variations_is_refused():
    with pytest.raises(mipp.MippError, match=r"variations=-1\): expected 0 or more"):
        mipp.Refit(variations=-1)
