"""Images in class folders: which are calibrated on, and which measure accuracy."""

import numpy as np
import pytest
import torch
from torch import nn

from mipp.cli.errors import CommandError
from mipp.cli.images import Transform, count_classes, open_images, transform_of
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


def test_pixels_of_sixteen_bits_keep_their_brightness(tmp_path):
    """Pillow's own conversion cuts them off at 255: nearly all would be white."""
    wide = np.array([[0, 2**14], [2**15, 2**16 - 1]], dtype=np.uint16).repeat(4, 0).repeat(4, 1)
    expected = torch.tensor([[0, 64], [128, 255]]).repeat_interleave(4, 0).repeat_interleave(4, 1) / 255
    for name, pixels in {"a.png": wide, "a.tiff": wide, "b.tiff": wide.astype(np.int32)}.items():
        Image.fromarray(pixels).save(tmp_path / name)
        for colours in (1, 3):
            found = Transform(8, (0.0,) * colours, (1.0,) * colours, 1.0)(tmp_path / name)
            torch.testing.assert_close(found, expected.expand(colours, 8, 8))


@pytest.mark.parametrize("pixels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 2**20, np.int32)])
def test_pixels_of_no_known_range_are_refused(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    with pytest.raises(CalibrationError, match="which of its numbers is white"):
        GREY(tmp_path / "a.tiff")


def test_hidden_files_and_folders_are_no_images(folder):
    for hidden in (folder / "black" / "._0.png", folder / "__MACOSX" / "._1.png", folder / ".cache" / "2.png"):
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_text("none")
    own, held = open_images(folder, GREY, None, seed=0, skip_bad=False)
    assert len(own.paths) + len(held.paths) == 20
    assert set(own.labels) == {0, 1}
    assert count_classes(folder, None) == 2


def test_images_beside_class_folders_are_refused(folder):
    Image.new("L", (4, 4)).save(folder / "preview.png")
    with pytest.raises(CalibrationError, match=r"images \(preview.png\) beside folders with images \(black, white\)"):
        open_images(folder, GREY, None, seed=0, skip_bad=False)


def test_one_folder_of_images_is_no_class(folder):
    move(folder, "photos", "black", "white")
    own, held = open_images(folder, GREY, None, seed=0, skip_bad=False)
    assert (len(own.paths), own.labels, held) == (20, None, None)


def test_a_folder_of_training_alone_has_the_classes(folder):
    move(folder, "train", "black", "white")
    own, held = open_images(folder, GREY, None, seed=0, skip_bad=False)
    assert set(own.labels) == {0, 1}
    assert len(held.paths) == 4
    assert count_classes(folder, None) == 2


def test_class_folders_that_the_model_names_are_not_counted(folder):
    assert count_classes(folder, {"black": 0, "white": 3, "red": 9}) is None
    assert count_classes(folder, {"black": 0}) == 2
