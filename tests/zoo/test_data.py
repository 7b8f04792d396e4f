"""Images with labels: normalised, in batches, shuffled, refused where their form is wrong."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from images import tiny

from mipp.zoo import DataSetError


@pytest.fixture(autouse=True)
def _no_data_dir(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_data_dir" not in request.fixturenames:
        monkeypatch.delenv("MIPP_DATA_DIR", raising=False)


def test_normalised_images_are_shifted_and_scaled_per_channel():
    data = tiny()
    expected = np.stack([(data.images[:, c].numpy() / 255 - data.mean[c]) / data.std[c] for c in (0, 1)], axis=1)
    assert data.normalise().dtype == torch.float32
    np.testing.assert_allclose(data.normalise().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(data.normalise(torch.tensor([3, 1])), data.normalise()[[3, 1]])
    assert torch.equal(data.normalise(slice(2, 4)), data.normalise()[2:4])


def test_batches_keep_the_order_and_end_with_the_rest():
    data = tiny()
    images, labels = zip(*data.batches(4), strict=True)
    assert [len(batch) for batch in images] == [4, 4, 2]
    assert torch.equal(torch.cat(images), data.normalise())
    assert torch.equal(torch.cat(labels), data.labels)


@pytest.mark.parametrize(("limit", "sizes"), [(6, [4, 2]), (4, [4]), (99, [4, 4, 2])])
def test_batches_stop_at_the_limit(limit, sizes):
    assert [len(labels) for _, labels in tiny().batches(4, limit=limit)] == sizes


def test_a_generator_shuffles_images_together_with_their_labels():
    data = tiny()
    data = dataclasses.replace(
        data, images=torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 2, 4, 4)
    )

    def order(seed: int) -> list[int]:
        batches = list(data.batches(3, generator=torch.Generator().manual_seed(seed)))
        positions = [((images[:, 0, 0, 0] * 0.2 + 0.5) * 255).round().long() for images, _ in batches]
        assert all(torch.equal(data.labels[at], labels) for at, (_, labels) in zip(positions, batches, strict=True))
        return torch.cat(positions).tolist()

    assert sorted(order(0)) == list(range(10)) != order(0)
    assert order(0) == order(0) != order(1)


def test_a_subset_keeps_everything_else():
    part = tiny().subset(torch.tensor([7, 2]))
    assert len(part) == 2
    assert torch.equal(part.images, tiny().images[[7, 2]])
    assert torch.equal(part.labels, tiny().labels[[7, 2]])
    assert (part.name, part.split, part.num_classes, part.mean, part.std) == (
        "tiny",
        "train",
        5,
        (0.5, 0.25),
        (0.2, 0.3),
    )
    assert torch.equal(tiny().subset(slice(3)).labels, tiny().labels[:3])


def test_data_are_frozen_move_and_say_what_they_are():
    data = tiny()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"  # type: ignore[misc]
    assert torch.equal(data.to("cpu").normalise(), data.normalise())
    assert repr(data) == "ImageData(tiny, train: 10 images of 2x4x4 in 5 classes)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(10, 2, 4, 4)}, r"images are float32 \[10, 2, 4, 4\]; expected uint8 \[N, C, H, W\]"),
        ({"images": torch.zeros(10, 4, 4, dtype=torch.uint8)}, r"images are uint8 \[10, 4, 4\]; expected"),
        ({"labels": torch.zeros(9, dtype=torch.int64)}, r"labels are int64 \[9\]; expected int64 \[10\]"),
        ({"labels": torch.zeros(10)}, r"labels are float32 \[10\]; expected int64 \[10\]"),
        ({"num_classes": 4}, r"labels run from 0 to 4; expected 0 to 3"),
        ({"labels": torch.arange(10) - 9}, r"labels run from -9 to 0; expected 0 to 4"),
        ({"mean": (0.5,)}, r"1 means and 2 standard deviations for 2 channels"),
    ],
)
def test_data_of_another_form_are_refused(change, message):
    with pytest.raises(DataSetError, match=f"tiny: {message}"):
        dataclasses.replace(tiny(), **change)


@pytest.fixture
def real_data_dir() -> str:
    return os.environ["MIPP_DATA_DIR"]
