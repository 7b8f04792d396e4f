"""Images in class folders: which are calibrated on, and which measure accuracy."""

import pytest
import torch
from torch import nn

from mipp.cli.errors import CommandError
from mipp.cli.images import Transform, open_images, transform_of
from mipp.cli.sources import measure_accuracy
from mipp.errors import CalibrationError

Image = pytest.importorskip("PIL.Image")
GREY = Transform(4, (0.5,), (0.5,), 1.0)


@pytest.fixture
def folder(tmp_path):
    """Ten images of black and ten of white, in a folder for each."""
    for name, level in (("black", 0), ("white", 255)):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (4, 4), level).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_a_fifth_is_held_out_and_no_image_is_in_both_parts(folder):
    own, held = open_images(folder, GREY, None, seed=0, skip_bad=False)
    assert (len(own.paths), len(held.paths)) == (16, 4)
    assert not set(own.paths) & set(held.paths)
    assert all((path.parent.name == "white") == label for path, label in zip(own.paths, own.labels, strict=True))


def test_folders_of_train_and_val_are_the_parts(folder, tmp_path):
    for part in ("train", "val"):
        (folder / part).mkdir()
    (folder / "black").rename(folder / "train" / "black")
    (folder / "white").rename(folder / "val" / "white")
    own, held = open_images(folder, GREY, {"black": 3, "white": 7}, seed=0, skip_bad=False)
    assert set(own.labels) == {3}
    assert set(held.labels) == {7}


def test_accuracy_is_the_percentage_that_is_right(folder):
    own, _ = open_images(folder, GREY, None, seed=0, skip_bad=False)

    class Bright(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3))
            return torch.stack([-bright, bright], 1)

    assert measure_accuracy(Bright(), own.batches(print)) == {"accuracy": 100.0}
    shares = {label: own.labels.count(label) for label in (0, 1)}
    always_white = nn.Sequential(Bright(), nn.Linear(2, 2))
    nn.init.zeros_(always_white[1].weight)
    always_white[1].bias.data = torch.tensor([0.0, 1.0])
    assert measure_accuracy(always_white, own.batches(print))["accuracy"] == 100 * shares[1] / len(own.paths)


def test_a_normalisation_that_nobody_gives_is_refused():
    with pytest.raises(CommandError, match="would pass unnoticed"):
        transform_of(None, 32, None, None)
    found = transform_of(None, 32, "0.5", "0.25")
    assert (found.size, found.mean, found.std) == (32, (0.5,), (0.25,))


def move(folder, part, *names):
    (folder / part).mkdir()
    for name in names:
        (folder / name).rename(folder / part / name)


def test_classes_held_out_have_the_numbers_that_they_have_in_training(folder):
    (folder / "grey").mkdir()
    Image.new("L", (4, 4), 99).save(folder / "grey" / "0.png")
    (folder / "val" / "white").mkdir(parents=True)
    Image.new("L", (4, 4), 255).save(folder / "val" / "white" / "0.png")
    move(folder, "train", "black", "grey", "white")
    assert open_images(folder, GREY, None, seed=0, skip_bad=False)[1].labels == [2]
    (folder / "val" / "white").rename(folder / "val" / "red")
    with pytest.raises(CalibrationError, match="class folder 'red'"):
        open_images(folder, GREY, None, seed=0, skip_bad=False)


def test_held_out_images_without_classes_measure_nothing(folder):
    move(folder, "train", "black", "white")
    (folder / "val").mkdir()
    Image.new("L", (4, 4), 255).save(folder / "val" / "0.png")
    assert open_images(folder, GREY, None, seed=0, skip_bad=False)[1] is None


def test_accuracy_needs_an_image_that_can_be_read(folder):
    own, _ = open_images(folder, GREY, None, seed=0, skip_bad=True)
    for path in own.paths:
        path.write_text("none")
    with pytest.raises(CalibrationError, match="None of the samples"):
        measure_accuracy(nn.Flatten(), own.batches(print))
