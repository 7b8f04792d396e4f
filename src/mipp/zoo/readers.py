"""Readers of published data sets, in the layout in which they are published; nothing is downloaded."""

import gzip
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mipp.runtime.requirements import DEMO, require
from mipp.zoo.data import DataSetError, ImageData

DATA_DIR_VARIABLE = "MIPP_DATA_DIR"
_AGAIN = "download it again"


@dataclass(frozen=True)
class _Source:
    """The name of a data set, its source, and the files and sub-folders that hold it."""

    title: str
    page: str
    folders: tuple[str, ...]
    files: dict[str, tuple[str, ...]]
    counts: dict[str, int]


_MNIST = _Source(
    title="MNIST",
    page="http://yann.lecun.com/exdb/mnist/",
    folders=("mnist", "MNIST", "MNIST/raw"),
    files={
        "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    },
    counts={"train": 60_000, "test": 10_000},
)
_CIFAR10 = _Source(
    title="CIFAR-10 (binary version)",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    folders=("cifar-10-batches-bin", "cifar-10", "cifar10", "cifar-10/cifar-10-batches-bin"),
    files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    counts={"train": 50_000, "test": 10_000},
)
_CIFAR100 = _Source(
    title="CIFAR-100 (binary version)",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
    folders=("cifar-100-binary", "cifar-100", "cifar100", "cifar-100/cifar-100-binary"),
    files={"train": ("train.bin",), "test": ("test.bin",)},
    counts={"train": 50_000, "test": 10_000},
)


def digits(split: str) -> ImageData:
    """Return the 8x8 digits that come with scikit-learn: 1,437 to train on and 360 to test on.

    Ordered by label, every fifth image is for the test, so the split is fixed and each class has its share.

    Args:
        split: "train" or "test".

    Raises:
        MissingRequirementError: if scikit-learn is not installed.
        DataSetError: if there is no such split.
    """
    _check_split(split)
    bunch = require("sklearn.datasets", "The data set digits", DEMO).load_digits()
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    pixels = (torch.as_tensor(bunch.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[labels.argsort(stable=True)[::5]] = True
    chosen = is_test if split == "test" else ~is_test
    return ImageData(pixels[chosen], labels[chosen], 10, (0.3058,), (0.3761,), "digits", split)


def mnist(data_dir: str | Path | None, split: str, *, num_images: int | None = None) -> ImageData:
    """Read MNIST from its idx files, compressed (.gz) or not.

    Args:
        data_dir: the folder of the files, or the folder above it; None reads the environment variable MIPP_DATA_DIR.
        split: "train" or "test".
        num_images: images the files must hold; None is the published count.

    Raises:
        DataSetError: if the files are missing, damaged or of another form.
    """
    image_file, label_file = _find(_MNIST, data_dir, split)
    count = _MNIST.counts[split] if num_images is None else num_images
    images = _read_idx(image_file, (count, 28, 28))[:, None]
    labels = _as_labels(label_file, _read_idx(label_file, (count,)), 10)
    return ImageData(images, labels, 10, (0.1307,), (0.3081,), "mnist", split)


def cifar10(data_dir: str | Path | None, split: str, *, num_images: int | None = None) -> ImageData:
    """Read CIFAR-10 from its binary version.

    Mean and standard deviation are ImageNet's, as for the public CIFAR ResNets (`resnet20`, `resnet56`, ...).

    Args:
        data_dir: the folder of the files, or the folder above it; None reads the environment variable MIPP_DATA_DIR.
        split: "train" (five files of equal size) or "test".
        num_images: images all files of the split must hold together; None is the published count.

    Raises:
        DataSetError: if the files are missing, damaged or of another form.
    """
    files = _find(_CIFAR10, data_dir, split)
    count = _CIFAR10.counts[split] if num_images is None else num_images
    parts = [_read_records(file, count // len(files), 1, 10) for file in files]
    images, labels = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return ImageData(images, labels, 10, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "cifar10", split)


def cifar100(data_dir: str | Path | None, split: str, *, num_images: int | None = None) -> ImageData:
    """Read CIFAR-100, with its fine labels, from its binary version.

    Args:
        data_dir: the folder of the files, or the folder above it; None reads the environment variable MIPP_DATA_DIR.
        split: "train" or "test".
        num_images: images the file must hold; None is the published count.

    Raises:
        DataSetError: if the files are missing, damaged or of another form.
    """
    (file,) = _find(_CIFAR100, data_dir, split)
    count = _CIFAR100.counts[split] if num_images is None else num_images
    images, labels = _read_records(file, count, 2, 100)
    return ImageData(images, labels, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "cifar100", split)


_READERS: dict[str, Callable[[str | Path | None, str], ImageData]] = {
    "digits": lambda _, split: digits(split),
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}
DATA_SETS = tuple(_READERS)


def load(name: str, split: str, data_dir: str | Path | None = None) -> ImageData:
    """Return a split of the data set called `name`, one of `DATA_SETS`.

    Args:
        name: "digits", "mnist", "cifar10" or "cifar100".
        split: "train" or "test".
        data_dir: the folder of the files, or the folder above it; None reads the environment variable MIPP_DATA_DIR.

    Raises:
        DataSetError: if the name or the split is unknown, or the files are missing or damaged.
        MissingRequirementError: if the digits are asked for and scikit-learn is not installed.

    >>> load("digits", "train")
    ImageData(digits, train: 1,437 images of 1x8x8 in 10 classes)
    """
    if name not in _READERS:
        raise DataSetError(f"no data set is called {name!r}; expected one of {', '.join(DATA_SETS)}")
    return _READERS[name](data_dir, split)


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise DataSetError(f"no split is called {split!r}; expected 'train' or 'test'")


def _find(source: _Source, data_dir: str | Path | None, split: str) -> list[Path]:
    _check_split(split)
    chosen = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not chosen:
        raise DataSetError(f"no folder to read {source.title} from; {_expectation(source, split, 'data_dir')}")
    top = Path(chosen)
    for folder in (top, *(top / name for name in source.folders)):
        files = [_plain_or_compressed(folder / name) for name in source.files[split]]
        present = [file for file in files if file is not None]
        if len(present) == len(files):
            return present
        if present:
            missing = [name for name, file in zip(source.files[split], files, strict=True) if file is None]
            raise DataSetError(f"{folder} lacks {', '.join(missing)}; {_expectation(source, split, str(top))}")
    found = f"no {source.title} files in {top}" if top.is_dir() else f"no folder {top} to read {source.title} from"
    raise DataSetError(f"{found}; {_expectation(source, split, str(top))}")


def _plain_or_compressed(path: Path) -> Path | None:
    compressed = path.with_name(path.name + ".gz")
    return next((file for file in (path, compressed) if file.is_file()), None)


def _expectation(source: _Source, split: str, top: str) -> str:
    return (
        f"expected {', '.join(source.files[split])}, in {top} itself or in its folder {source.folders[0]}; "
        f"download them from {source.page}, put them there unchanged, and name the folder with data_dir or the "
        f"environment variable {DATA_DIR_VARIABLE}"
    )


def _read(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataSetError(
            f"{path} cannot be decompressed ({error}); expected a complete gzip file; {_AGAIN}"
        ) from error


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    content = _read(path)
    header = b"".join(number.to_bytes(4, "big") for number in (0x800 + len(shape), *shape))
    found = content[: len(header)]
    if found[:4] != header[:4]:
        raise DataSetError(f"{path} begins with {found[:4].hex(' ')}; expected {header[:4].hex(' ')} (idx); {_AGAIN}")
    if found != header:
        sizes = [int.from_bytes(found[i : i + 4], "big") for i in range(4, len(found), 4)]
        raise DataSetError(f"{path} announces an array of {sizes}; expected {list(shape)}; {_AGAIN}")
    _check_size(path, len(content), len(header) + math.prod(shape), f"a header and {shape[0]:,} records")
    return _as_bytes(content)[len(header) :].reshape(shape)


def _read_records(path: Path, count: int, num_labels: int, num_classes: int) -> tuple[Tensor, Tensor]:
    content = _read(path)
    size = num_labels + 3 * 32 * 32
    _check_size(path, len(content), count * size, f"{count:,} records of {size:,}")
    records = _as_bytes(content).reshape(count, size)
    images = records[:, num_labels:].reshape(count, 3, 32, 32)
    return images, _as_labels(path, records[:, num_labels - 1], num_classes)


def _check_size(path: Path, found: int, expected: int, meaning: str) -> None:
    if found != expected:
        raise DataSetError(f"{path} holds {found:,} bytes; expected {expected:,} ({meaning}); {_AGAIN}")


def _as_labels(path: Path, values: Tensor, num_classes: int) -> Tensor:
    if len(values) and int(values.max()) >= num_classes:
        raise DataSetError(f"{path} holds the label {int(values.max())}; expected 0 to {num_classes - 1}; {_AGAIN}")
    return values.long()


def _as_bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
