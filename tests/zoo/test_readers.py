"""Readers on small files written here in the published layouts, and on the real data where MIPP_DATA_DIR names them."""

import gzip
import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from images import Bytes

from mipp.errors import CalibrationError, MissingRequirementError
from mipp.zoo import DATA_SETS, DataSetError, cifar10, cifar100, digits, load, mnist


@pytest.fixture(autouse=True)
def _no_data_dir(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_data_dir" not in request.fixturenames:
        monkeypatch.delenv("MIPP_DATA_DIR", raising=False)


def write_idx(path: Path, array: Bytes) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, prefix: str, count: int, suffix: str = "", seed: int = 0) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return images, labels


def write_cifar(path: Path, count: int, *maxima: int, seed: int = 0) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.stack([rng.integers(0, maximum, count, dtype=np.uint8) for maximum in maxima], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(labels[i].tobytes() + images[i].tobytes() for i in range(count)))
    return images, labels


def test_digits_are_split_once_and_by_class():
    datasets = pytest.importorskip("sklearn.datasets")
    whole = datasets.load_digits()
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert ((shares - 0.2).abs() < 0.006).all()
    seen = torch.cat([train.images, test.images])
    levels = sorted({round(255 * value / 16) for value in range(17)})
    assert seen.unique().tolist() == levels
    rows = sorted(map(tuple, (seen.flatten(1) * (16 / 255)).round().long().tolist()))
    assert rows == sorted(map(tuple, whole.data.astype(int).tolist()))
    assert torch.equal(digits("test").images, test.images)
    assert train.normalise().mean().abs() < 1e-3
    assert (train.normalise().std() - 1).abs() < 1e-3


def test_digits_without_scikit_learn_name_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingRequirementError, match=re.escape('pip install "torch-mipp[demo]"')):
        load("digits", "train")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("sub_folder", ["", "mnist", "MNIST/raw"])
def test_mnist_is_read_as_published(tmp_path, suffix, sub_folder):
    write_mnist(tmp_path / sub_folder, "train", 7, suffix, seed=1)
    images, labels = write_mnist(tmp_path / sub_folder, "t10k", 3, suffix)
    data = mnist(tmp_path, "test", num_images=3)
    assert np.array_equal(data.images.numpy(), images[:, None])
    assert np.array_equal(data.labels.numpy(), labels)
    assert (data.name, data.split, data.num_classes) == ("mnist", "test", 10)
    assert len(mnist(str(tmp_path), "train", num_images=7)) == 7


@pytest.mark.parametrize(
    "sub_folder", ["", "cifar-10-batches-bin", "cifar-10", "cifar10", "cifar-10/cifar-10-batches-bin"]
)
def test_cifar10_joins_its_five_files_in_order(tmp_path, sub_folder):
    folder = tmp_path / sub_folder
    parts = [write_cifar(folder / f"data_batch_{i}.bin", 4, 10, seed=i) for i in range(1, 6)]
    data = cifar10(tmp_path, "train", num_images=20)
    assert np.array_equal(data.images.numpy(), np.concatenate([images for images, _ in parts]))
    assert np.array_equal(data.labels.numpy(), np.concatenate([labels[:, 0] for _, labels in parts]))
    images, _ = write_cifar(folder / "test_batch.bin", 2, 10)
    assert np.array_equal(cifar10(tmp_path, "test", num_images=2).images.numpy(), images)


@pytest.mark.parametrize("sub_folder", ["", "cifar-100-binary", "cifar100"])
def test_cifar100_takes_the_fine_labels(tmp_path, sub_folder):
    images, labels = write_cifar(tmp_path / sub_folder / "train.bin", 6, 20, 100)
    data = cifar100(tmp_path, "train", num_images=6)
    assert np.array_equal(data.images.numpy(), images)
    assert np.array_equal(data.labels.numpy(), labels[:, 1])
    assert data.num_classes == 100


def test_the_environment_names_the_folder_and_an_argument_overrides_it(tmp_path, monkeypatch):
    write_mnist(tmp_path / "a" / "mnist", "t10k", 3)
    write_mnist(tmp_path / "b", "t10k", 4)
    monkeypatch.setenv("MIPP_DATA_DIR", str(tmp_path / "a"))
    assert len(mnist(None, "test", num_images=3)) == 3
    assert len(mnist(tmp_path / "b", "test", num_images=4)) == 4


def test_a_missing_data_set_says_which_files_from_where_and_where_to(tmp_path):
    with pytest.raises(CalibrationError) as found:
        load("cifar10", "train", tmp_path)
    message = str(found.value)
    assert message.startswith(f"no CIFAR-10 (binary version) files in {tmp_path}")
    for part in [
        "data_batch_1.bin",
        "data_batch_5.bin",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "MIPP_DATA_DIR",
    ]:
        assert part in message
    assert f"in {tmp_path} itself or in its folder cifar-10-batches-bin" in message


def test_no_folder_and_a_folder_that_is_not_there_are_told_apart(tmp_path):
    with pytest.raises(
        DataSetError, match=r"no folder to read MNIST from; .*t10k-images.* data_dir or .* MIPP_DATA_DIR"
    ):
        load("mnist", "test")
    with pytest.raises(DataSetError, match=r"no folder .*nowhere to read CIFAR-100"):
        load("cifar100", "test", tmp_path / "nowhere")


def test_a_missing_part_is_named(tmp_path):
    for i in (1, 2, 4, 5):
        write_cifar(tmp_path / "cifar-10" / f"data_batch_{i}.bin", 1, 10)
    with pytest.raises(DataSetError, match=r"cifar-10 lacks data_batch_3\.bin; expected"):
        cifar10(tmp_path, "train", num_images=5)


def test_unknown_names_and_splits_are_refused(tmp_path):
    with pytest.raises(DataSetError, match=r"'svhn'; expected one of digits, mnist, cifar10, cifar100"):
        load("svhn", "train")
    for name in DATA_SETS:
        with pytest.raises(DataSetError, match="no split is called 'valid'; expected 'train' or 'test'"):
            load(name, "valid", tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-5], r"holds 2,363 bytes; expected 2,368 \(a header and 3 records\)"),
        (lambda content: content + b"0", r"holds 2,369 bytes; expected 2,368"),
        (lambda content: b"\x1f\x8b\x08\x00" + content[4:], r"begins with 1f 8b 08 00; expected 00 00 08 03 \(idx\)"),
        (
            lambda content: content[:7] + b"\x09" + content[8:],
            r"announces an array of \[9, 28, 28\]; expected \[3, 28, 28\]",
        ),
        (lambda content: b"", r"begins with ; expected 00 00 08 03"),
        (lambda content: content[:8], r"announces an array of \[3\]; expected \[3, 28, 28\]"),
    ],
)
def test_a_damaged_idx_file_is_named_with_what_was_found(tmp_path, damage, message):
    write_mnist(tmp_path, "t10k", 3)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataSetError, match=re.escape(str(path)) + " " + message):
        mnist(tmp_path, "test", num_images=3)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-9], lambda content: b"<html>" + content, lambda content: content[:12] + b"??" * 40],
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    write_mnist(tmp_path, "t10k", 3, ".gz")
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        DataSetError, match=r"t10k-labels-idx1-ubyte\.gz cannot be decompressed .*; expected a complete"
    ):
        mnist(tmp_path, "test", num_images=3)


def test_a_truncated_record_file_is_named_with_both_sizes(tmp_path):
    path = tmp_path / "test_batch.bin"
    write_cifar(path, 2, 10)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataSetError, match=r"test_batch\.bin holds 6,145 bytes; expected 6,146 \(2 records of 3,073\)"):
        cifar10(tmp_path, "test", num_images=2)


def test_labels_out_of_range_are_damage(tmp_path):
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((1, 28, 28), np.uint8))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([10], np.uint8))
    with pytest.raises(DataSetError, match=r"t10k-labels-idx1-ubyte holds the label 10; expected 0 to 9"):
        mnist(tmp_path, "test", num_images=1)


def test_without_an_explicit_count_the_published_one_is_expected(tmp_path):
    write_mnist(tmp_path, "train", 2)
    with pytest.raises(DataSetError, match=r"\[2, 28, 28\]; expected \[60000, 28, 28\]"):
        load("mnist", "train", tmp_path)
    write_cifar(tmp_path / "test_batch.bin", 2, 10)
    with pytest.raises(DataSetError, match=r"expected 30,730,000 \(10,000 records of 3,073\)"):
        load("cifar10", "test", tmp_path)
    write_cifar(tmp_path / "train.bin", 2, 20, 100)
    with pytest.raises(DataSetError, match=r"expected 153,700,000 \(50,000 records of 3,074\)"):
        load("cifar100", "train", tmp_path)


@pytest.fixture
def real_data_dir() -> str:
    return os.environ["MIPP_DATA_DIR"]


@pytest.mark.skipif("MIPP_DATA_DIR" not in os.environ, reason="MIPP_DATA_DIR names no folder of real data")
@pytest.mark.parametrize(("name", "num_classes"), [("mnist", 10), ("cifar10", 10), ("cifar100", 100)])
def test_the_real_data_have_the_published_counts(real_data_dir, name, num_classes):
    try:
        train, test = load(name, "train"), load(name, "test")
    except DataSetError as error:
        if not str(error).startswith("no "):
            raise
        pytest.skip(str(error))
    assert (len(train), len(test)) == ((60_000 if name == "mnist" else 50_000), 10_000)
    for data in (train, test):
        counts = data.labels.bincount(minlength=num_classes)
        assert (counts > 0).all() if name == "mnist" else (counts == len(data) // num_classes).all()
