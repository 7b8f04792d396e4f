"""Data and networks of the experiments: augmentation against plain loops, what an epoch promises, published counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.mipp_2024 import augment
from experiments.mipp_2024.data import DATA_SETS, load
from experiments.mipp_2024.deformed import WAYS, deformed
from experiments.mipp_2024.epochs import Epoch
from experiments.mipp_2024.folders import ImageFolder, crop
from experiments.mipp_2024.imagenet import imagenet
from experiments.mipp_2024.networks import PAIRS, build, load_weights
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from mipp import zoo
from mipp.errors import MippError
from mipp.zoo import DataSetError, ImageData

ALL = ("crop", "flip", "mixup", "cutout")


def noise(count: int = 50, size: int = 8, channels: int = 2) -> ImageData:
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)
    statistics = (0.5, 0.25)[:channels], (0.2, 0.3)[:channels]
    return ImageData(images, torch.arange(count) % 10, 10, *statistics, "noise", "train")


@given(st.integers(2, 9), st.integers(0, 3), st.data())
def test_crop_and_flip_are_those_of_a_plain_loop(size, margin, draws):
    images = torch.arange(1, 3 * size * size + 1, dtype=torch.float64).reshape(3, 1, size, size)
    place = st.lists(st.integers(0, 2 * margin), min_size=3, max_size=3)
    down, right = draws.draw(place), draws.draw(place)
    mirrored = draws.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    expected = torch.zeros_like(images)
    for n in range(3):
        for i in range(size):
            for j in range(size):
                column = size - 1 - j if mirrored[n] else j
                y, x = i + down[n] - margin, column + right[n] - margin
                if 0 <= y < size and 0 <= x < size:
                    expected[n, 0, i, j] = images[n, 0, y, x]
    found = augment.crop_flip(images, torch.tensor(down), torch.tensor(right), torch.tensor(mirrored), margin)
    assert torch.equal(found, expected)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 7))
def test_cutout_blanks_a_square_around_its_centre(row, column, side):
    images = torch.ones(1, 2, 6, 6)
    expected = images.clone()
    top, left = row - side // 2, column - side // 2
    expected[:, :, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
    assert torch.equal(augment.cutout(images, torch.tensor([row]), torch.tensor([column]), side), expected)


def test_mixup_mixes_each_image_with_its_partner():
    images = torch.randn(5, 1, 2, 2)
    mixed = augment.mixup(images, images.flip(0), torch.tensor(0.3))
    torch.testing.assert_close(mixed, 0.3 * images + 0.7 * images.flip(0))


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own():
    epochs = [Epoch.draw(50, 8, seed, number) for seed, number in ((0, 0), (0, 1), (1, 0), (0, 0))]
    for epoch in epochs:
        assert epoch.order.shape == (6, 8)
        assert epoch.order.unique().numel() == 48
    orders = [epoch.order.tolist() for epoch in epochs]
    assert orders[0] == orders[3]
    assert orders[0] not in orders[1:3]
    assert orders[1] != orders[2]


def test_without_augmentation_batches_are_the_normalised_images():
    data, epoch = noise(), Epoch.draw(50, 8, 0, 0)
    batches = list(epoch.batches(data, (), 0, torch.device("cpu")))
    for indices, batch in zip(epoch.order, batches, strict=True):
        torch.testing.assert_close(batch.images, data.normalise(indices))
        assert torch.equal(batch.labels, data.labels[indices])
        assert batch.partners is None


def test_a_later_start_gives_the_rest_of_the_same_batches():
    data, epoch, cpu = noise(), Epoch.draw(50, 8, 0, 0), torch.device("cpu")
    whole = list(epoch.batches(data, ALL, 3, cpu))
    rest = list(epoch.batches(data, ALL, 3, cpu, steps=range(2, 5)))
    assert len(rest) == 3
    for late, batch in zip(rest, whole[2:5], strict=True):
        assert torch.equal(late.images, batch.images)
        assert torch.equal(late.partners, batch.partners)
        assert torch.equal(late.share, batch.share)


def test_processes_share_each_batch():
    data, epoch, cpu = noise(), Epoch.draw(50, 8, 0, 0), torch.device("cpu")
    chosen = ("crop", "flip", "cutout", "mixup")
    whole = list(epoch.batches(data, chosen, 3, cpu))
    shares = [list(epoch.batches(data, chosen, 3, cpu, rank=rank, processes=2)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(part.images, batch.images[rank::2])
            assert torch.equal(part.labels, batch.labels[rank::2])
            assert torch.equal(part.partners, batch.partners[rank::2])


@pytest.mark.parametrize("name", [*ALL, None])
def test_every_augmentation_changes_images_and_only_mixup_labels(name):
    data, epoch, cpu = noise(size=16), Epoch.draw(50, 8, 0, 0), torch.device("cpu")
    plain = next(epoch.batches(data, (), 0, cpu))
    batch = next(epoch.batches(data, (name,) if name else (), 5, cpu))
    assert torch.equal(batch.images, plain.images) is (name is None)
    assert torch.equal(batch.labels, plain.labels)
    assert (batch.partners is not None) is (name == "mixup")


def test_deformed_images_are_drawn_once_and_stay():
    pytest.importorskip("kornia")
    data = zoo.load("digits", "test")
    state = torch.get_rng_state()
    first = deformed(data)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again, other = deformed(data), deformed(data, seed=1)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert torch.equal(first.labels, data.labels)
    assert first.name == "digits-deformed"
    same = (first.images == data.images).flatten(1).all(dim=1).float().mean()
    assert abs(same - 1 / len(WAYS)) < 0.08
    assert (first.images.float() - data.images.float()).abs().mean() > 5


FOLDERS = {
    "mnist": "mnist",
    "mnist-deformed": "mnist",
    "cifar10": "cifar-10-batches-bin",
    "cifar100": "cifar-100-binary",
    "cifar100-10000": "cifar-100-binary",
    "imagenet": "imagenet",
}


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "digits"])
def test_a_missing_data_set_says_where_it_is_and_where_it_goes(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MIPP_DATA_DIR", raising=False)
    for folder in (None, tmp_path):
        with pytest.raises(DataSetError, match="download") as told:
            load(name, "train", folder)
        assert "http" in str(told.value)
        assert "data_dir or the environment variable MIPP_DATA_DIR" in str(told.value)
        assert f"in its folder {FOLDERS[name]};" in str(told.value)


def test_names_that_are_not_there_are_refused():
    with pytest.raises(DataSetError, match="expected one of digits, mnist"):
        load("svhn", "train")
    with pytest.raises(DataSetError, match="'train' or 'test'"):
        load("imagenet", "val")
    with pytest.raises(MippError, match="expected one of lenet5"):
        build("alexnet", noise())
    assert len(load("digits", "train")) == 1437


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of three images each, of one colour each; the last one is wide, with another colour at its ends."""
    for k, name in enumerate(("n02", "n01")):
        (tmp_path / "imagenet" / "val" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((60, 90, 3), (40 * i, 100 * k, 200), dtype=np.uint8)
            pixels[:, :15] = pixels[:, -15:] = 255
            Image.fromarray(pixels).save(tmp_path / "imagenet" / "val" / name / f"{i}.png")
    return tmp_path


def read(folder: Path, **options) -> ImageFolder:
    found = imagenet(folder, "test", counts=(2, 6))
    return ImageFolder(**{**vars(found), "size": 16, "workers": 0, **options})


def test_folders_are_classes_in_the_order_of_their_names(folder):
    data = read(folder)
    assert repr(data) == "ImageFolder(imagenet, test: 6 images in 2 classes)"
    images, labels = zip(*data.batches(4), strict=True)
    assert [len(batch) for batch in images] == [4, 2]
    assert torch.cat(labels).tolist() == [0, 0, 0, 1, 1, 1]
    mean, std = torch.tensor(data.mean)[:, None, None], torch.tensor(data.std)[:, None, None]
    pixels = (torch.cat(images) * std + mean) * 255
    colours = [(40 * i, 100 * k, 200) for k in (1, 0) for i in range(3)]  # the centre is of one colour
    expected = torch.tensor(colours, dtype=torch.float32)[:, :, None, None].expand(6, 3, 16, 16)
    torch.testing.assert_close(pixels, expected, atol=1e-2, rtol=0)


def test_folders_are_read_like_images_in_memory(folder):
    data = read(folder)
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([labels for _, labels in data.batches(2, limit=3, generator=generator)])
    assert torch.equal(labels, data.labels[torch.randperm(6, generator=torch.Generator().manual_seed(0))[:3]])
    part = data.subset(torch.tensor([5, 0]))
    assert torch.equal(next(part.batches(2))[0], next(data.batches(6))[0][[5, 0]])
    epoch = Epoch.draw(6, 2, 0, 0)
    batches = list(epoch.batches(data, ("crop", "flip"), 0, torch.device("cpu")))
    assert torch.equal(torch.stack([batch.labels for batch in batches]), data.labels[epoch.order])
    again = list(epoch.batches(data, ("crop", "flip"), 0, torch.device("cpu"), steps=range(1, 3)))
    assert torch.equal(torch.stack([b.images for b in again]), torch.stack([b.images for b in batches[1:]]))


def test_other_processes_read_the_same(folder):
    alone, shared = (torch.cat([i for i, _ in read(folder, workers=workers).batches(2)]) for workers in (0, 1))
    assert torch.equal(alone, shared)


def test_damaged_folders_are_told(folder):
    with pytest.raises(DataSetError, match="holds 2 folders; expected 1,000"):
        load("imagenet", "test", folder)
    with pytest.raises(DataSetError, match="holds 6 images; expected 7"):
        imagenet(folder, "test", counts=(2, 7))
    (folder / "imagenet" / "val" / "n01" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataSetError, match=r"1\.png cannot be read"):
        list(read(folder).batches(6))


@given(st.integers(1, 900), st.integers(1, 900), *[st.floats(0, 1, exclude_max=True)] * 4)
def test_crops_lie_within_their_image(width, height, area, shape, row, column):
    left, top, right, bottom = crop(width, height, area, shape, row, column)
    assert 0 <= left < right <= width * (1 + 1e-12)
    assert 0 <= top < bottom <= height * (1 + 1e-12)


def published(depths: tuple[int, ...], convolutions: list[tuple[int, int]], expansion: int) -> dict[str, tuple]:
    """Names and shapes of torchvision's state dicts: a block has convolutions of these sizes and widths."""

    def norm(name: str, width: int) -> dict[str, tuple]:
        keys = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{key}": (width,) for key in keys} | {f"{name}.num_batches_tracked": ()}

    shapes: dict[str, tuple] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for stage, depth in enumerate(depths):
        base = 64 * 2**stage
        for block in range(depth):
            top, start = f"layer{stage + 1}.{block}", inputs
            for k, (size, factor) in enumerate(convolutions, start=1):
                shapes[f"{top}.conv{k}.weight"] = (base * factor, inputs, size, size)
                shapes |= norm(f"{top}.bn{k}", base * factor)
                inputs = base * factor
            if block == 0 and start != expansion * base:
                shapes[f"{top}.downsample.0.weight"] = (expansion * base, start, 1, 1)
                shapes |= norm(f"{top}.downsample.1", expansion * base)
    return shapes | {"fc.weight": (1000, 512 * expansion), "fc.bias": (1000,)}


BASIC, BOTTLENECK = [(3, 1), (3, 1)], [(1, 1), (3, 1), (1, 4)]


RESNETS = {  # depths, blocks, and the published numbers of parameters
    "resnet18": (((2, 2, 2, 2), BASIC, 1), 11_689_512),
    "resnet34": (((3, 4, 6, 3), BASIC, 1), 21_797_672),
    "resnet50": (((3, 4, 6, 3), BOTTLENECK, 4), 25_557_032),
}


def imagenet_like() -> ImageData:
    images = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    return ImageData(images, torch.zeros(1, dtype=torch.int64), 1000, (0.5,) * 3, (0.5,) * 3, "imagenet", "test")


@pytest.mark.parametrize("name", RESNETS)
def test_imagenet_resnets_have_the_published_names_shapes_and_counts(name):
    (layers, count), data = RESNETS[name], imagenet_like()
    with torch.device("meta"):
        model = build(name, data)
        assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == published(*layers)
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        features = model.maxpool(model.conv1(torch.zeros(1, 3, 224, 224)))
        assert features.shape == (1, 64, 56, 56)
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_load_from_a_state_dict(suffix, tmp_path):
    data = noise(channels=1, size=28)
    model, path = build("lenet5", data, seed=1), tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(model.state_dict(), path)
    other = build("lenet5", data, seed=2, weights=path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(MippError, match="does not fit DigitsCNN"):
        load_weights(zoo.DigitsCNN(), path)


def test_a_seed_gives_one_network_and_leaves_the_random_numbers_alone():
    data, state = noise(channels=1, size=28), torch.get_rng_state()
    one, same, other = (torch.cat([p.flatten() for p in build("lenet5", data, s).parameters()]) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_papers_pairs_can_be_built():
    for network, name in PAIRS:
        assert network in zoo.networks()
        assert name in DATA_SETS
