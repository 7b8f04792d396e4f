"""ImageNet from the folders into which everybody unpacks it."""

import os
from pathlib import Path

import numpy as np
import torch
from experiments.mipp_2024.folders import ImageFolder

from mipp.zoo import DataSetError

_PARTS = {"train": ("train", 1_281_167), "test": ("val", 50_000)}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet(data_dir: str | Path | None, split: str, *, counts: tuple[int, int] | None = None) -> ImageFolder:
    """ImageNet (ILSVRC 2012): a folder per class in `train` and in `val`; "test" reads `val`.

    Args:
        data_dir: The folder of `train` and `val`, or the folder above it, where it is called `imagenet`; None reads
            the environment variable MIPP_DATA_DIR.
        split: "train" or "test".
        counts: How many classes and images there must be; None: as many as were published.

    Raises:
        DataSetError: The images are missing, or not as many as published.
    """
    if split not in _PARTS:
        raise DataSetError(f"no split is called {split!r}; expected 'train' or 'test'")
    part, published = _PARTS[split]
    num_classes, num_images = counts or (1000, published)
    top = _find(data_dir or os.environ.get("MIPP_DATA_DIR"), part)
    classes = sorted(entry.name for entry in os.scandir(top) if entry.is_dir())
    if len(classes) != num_classes:
        raise DataSetError(
            f"{top} holds {len(classes):,} folders; expected {num_classes:,}, one for each class; unpack each class "
            "into a folder of its own"
        )
    files = [sorted(f"{name}/{entry.name}" for entry in os.scandir(top / name)) for name in classes]
    found = sum(map(len, files))
    if found != num_images:
        raise DataSetError(f"{top} holds {found:,} images; expected {num_images:,}; unpack it again")
    labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor([len(names) for names in files]))
    paths = np.array([os.fsencode(name) for names in files for name in names])
    return ImageFolder(top, paths, labels, num_classes, _MEAN, _STD, "imagenet", split)


def _find(data_dir: str | Path | None, part: str) -> Path:
    places = [Path(data_dir) / "imagenet" / part, Path(data_dir) / part] if data_dir else []
    top = next((place for place in places if place.is_dir()), None)
    if top is not None:
        return top
    found = f"no folder {places[0]}" if places else "no folder to read ImageNet from"
    raise DataSetError(
        f"{found}; expected the folders 'train' and 'val', with a folder of images for each class, in "
        f"{data_dir or 'data_dir'} itself or in its folder imagenet; download ILSVRC 2012 from "
        "https://www.image-net.org/download.php, unpack each class into a folder of its own, and name the folder with "
        "data_dir or the environment variable MIPP_DATA_DIR"
    )
