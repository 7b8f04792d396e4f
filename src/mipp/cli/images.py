"""Images in folders: read, cut to size and normalised as the model was trained."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mipp.cli.errors import CommandError
from mipp.cli.options import ModelSource
from mipp.errors import CalibrationError, clip, few, quote
from mipp.runtime.requirements import require
from mipp.runtime.typed import FormError, as_type, read_json

_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_HELD_OUT = ("val", "valid", "validation", "test")
_BATCH, _MARGIN = 32, 0.875
_MOST_PIXELS = 2**14
_LONGEST_SIDE = 100
"""Of an image, in shorter sides: it is brought to size before it is cropped."""


@dataclass(frozen=True)
class Transform:
    """Settings that turn images into tensors.

    Attributes:
        size: Pixels of height and width.
        mean: Per channel, of pixels from 0 to 1; subtracted.
        std: Per channel; divided by.
        crop: Share of the shorter side that is kept.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = _MARGIN

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _MOST_PIXELS:
            raise CommandError(f"--size is {quote(self.size)}; expected 1 to {_MOST_PIXELS} pixels.")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or 0 in self.std:
            raise CommandError(
                "--mean and --std hold numbers that are not finite, or 0; expected those of the training."
            )

    def __call__(self, path: Path) -> Tensor:
        """The image in a file, shape [channels, size, size].

        Raises:
            CalibrationError: The file holds no image.
        """
        pillow = require("PIL.Image", "--images", "pillow")
        try:
            with pillow.open(path) as opened:
                found = _in_eight_bits(opened)
                image = None if found is None else found.convert("L" if len(self.mean) == 1 else "RGB")
        except Exception as error:  # whatever the reader of the format says about a damaged file
            raise CalibrationError(f"{path} cannot be read as an image; --skip-bad leaves such files out.") from error
        if image is None:
            raise CalibrationError(
                f"{path} cannot be read as an image: nothing says which of its numbers is white; --skip-bad leaves "
                "such files out."
            )
        shorter, longer = sorted(image.size)
        if not 0 < longer <= _LONGEST_SIDE * shorter:
            raise CalibrationError(
                f"{path} cannot be read as an image: {shorter} x {longer} pixels are a line; --skip-bad leaves such "
                "files out."
            )
        scale = self.size / self.crop / shorter
        image = image.resize([max(self.size, round(side * scale)) for side in image.size], pillow.Resampling.BILINEAR)
        left, top = ((side - self.size) // 2 for side in image.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        pixels = pixels.reshape(self.size, self.size, len(self.mean)).movedim(-1, 0).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


@dataclass(frozen=True)
class ImageFolder:
    """Images in class folders, or flat.

    Attributes:
        paths: The files.
        labels: Number of the class of each; None without class folders.
        transform: How they are read.
        skip_bad: Leave out files that cannot be read, and say so.
    """

    paths: Sequence[Path]
    labels: Sequence[int] | None
    transform: Transform
    skip_bad: bool = False

    def batches(self, say: Callable[[str], None]) -> Iterator[Any]:
        """Batches of images, with labels if there are any; files that are left out are named."""
        read: list[tuple[Tensor, int]] = []
        for number, path in enumerate(self.paths):
            try:
                read.append((self.transform(path), self.labels[number] if self.labels is not None else 0))
            except CalibrationError as error:
                if not self.skip_bad:
                    raise
                say(f"Left out: {str(error).partition(';')[0]}.")
            if len(read) == _BATCH:
                yield self._batch(read)
                read = []
        if read:
            yield self._batch(read)

    def _batch(self, read: Sequence[tuple[Tensor, int]]) -> Any:
        images = torch.stack([image for image, _ in read])
        return images if self.labels is None else (images, torch.tensor([label for _, label in read]))


def open_images(
    folder: Path, transform: Transform, classes: Mapping[str, int] | None, *, seed: int, skip_bad: bool
) -> tuple[ImageFolder, ImageFolder | None]:
    """The images to calibrate on, shuffled, and those held out to measure accuracy on, if there are labels.

    Args:
        folder: Has images, or a folder for each class, or "train" and "val" with these inside.
        transform: How they are read.
        classes: Number of each class by the name of its folder; by default in the order of the names.
        seed: Shuffles.
        skip_bad: Leave out files that cannot be read.
    """
    if not folder.is_dir():
        raise CommandError(
            f"--images {folder} is no folder; expected one with images, or with a folder for each class."
        )
    held_out = next((folder / name for name in _HELD_OUT if (folder / name).is_dir()), None)
    if held_out is None and _folders(folder) == ["train"]:
        return open_images(folder / "train", transform, classes, seed=seed, skip_bad=skip_bad)
    if (folder / "train").is_dir() and held_out is not None:
        own = _list_files(folder / "train", classes)
        other = _list_files(held_out, _numbers_of(folder / "train", held_out, classes))
        measured = None if other[1] is None else _shuffle(other, seed, transform, skip_bad)
        return _shuffle(own, seed, transform, skip_bad), measured
    paths, labels = _list_files(folder, classes)
    if labels is None:
        return _shuffle((paths, labels), seed, transform, skip_bad), None
    whole = _shuffle((paths, labels), seed, transform, skip_bad)
    assert whole.labels is not None
    fifth = max(1, len(paths) // 5)
    parts = slice(fifth, None), slice(fifth)
    first, second = (ImageFolder(whole.paths[p], whole.labels[p], transform, skip_bad) for p in parts)
    return first, second


def _list_files(folder: Path, classes: Mapping[str, int] | None) -> tuple[list[Path], list[int] | None]:
    """Files of images, with the number of their class where they are in class folders."""
    own = sorted(path for path in folder.iterdir() if _is_image(path))
    numbered = _number_folders(folder, classes)
    if own and numbered:
        files, folders = few(path.name for path in own), few(name for name, _ in numbered)
        raise CalibrationError(
            f"{folder} has images ({files}) beside folders with images ({folders}); expected either. Move the ones, or "
            "name the folder that is meant."
        )
    if own:
        return own, None
    if not numbered:
        raise CalibrationError(
            f"{folder} has no images; expected files such as .jpg and .png, or a folder for each class."
        )
    found = [(path, number) for name, number in numbered for path in sorted(_images_in(folder / name))]
    if len(numbered) == 1 and not (classes and numbered[0][0] in classes):  # a folder of images, rather than a class
        return [path for path, _ in found], None
    return [path for path, _ in found], [label for _, label in found]


def count_classes(folder: Path, classes: Mapping[str, int] | None) -> int | None:
    """The number of class folders that are numbered by their order; None where the model knows their names."""
    names = _folders(folder / "train" if (folder / "train").is_dir() else folder)
    return None if classes and all(name in classes for name in names) else len(names)


def _folders(folder: Path) -> list[str]:
    """Names of the folders with images; hidden ones are of the system or of an editor."""
    inside = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path.name for path in inside if any(_images_in(path)))


def _number_folders(folder: Path, classes: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """Names of class folders with images, and the number of each."""
    names = _folders(folder)
    known = classes if classes and all(name in classes for name in names) else {}
    return [(name, known.get(name, number)) for number, name in enumerate(names)]


def _numbers_of(train: Path, held_out: Path, classes: Mapping[str, int] | None) -> Mapping[str, int]:
    """The numbers that classes have in training, for images that are held out.

    Raises:
        CalibrationError: One of them has none.
    """
    numbers: Mapping[str, int] = dict(_number_folders(train, classes))
    if classes and all(name in classes for name in numbers):
        numbers = classes
    strange = [name for name, _ in _number_folders(held_out, None) if name not in numbers]
    if numbers and strange:
        raise CalibrationError(f"{held_out} has the class folder '{strange[0]}', which {train} has not.")
    return numbers


def _images_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if _is_image(path))


def _is_image(path: Path) -> bool:
    """True by the name; hidden files are of the system or of an editor."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def _in_eight_bits(image: Any) -> Any:
    """An image whose pixels have at most 8 bits, where Pillow would cut brighter ones off; None of unknown range."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or not 0 <= pixels.min() <= pixels.max() < 2**16:
        return None
    return require("PIL.Image", "--images", "pillow").fromarray((pixels >> 8).astype(np.uint8))


def _shuffle(
    found: tuple[list[Path], list[int] | None],
    seed: int,
    transform: Transform,
    skip_bad: bool,  # noqa: FBT001
) -> ImageFolder:
    paths, labels = found
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = None if labels is None else [labels[n] for n in order]
    return ImageFolder([paths[n] for n in order], shuffled, transform, skip_bad)


def known_transform(source: ModelSource) -> Transform | None:
    """The transform that the library says the model was trained with."""
    return _KNOWN[source.library](source) if source.library else None


def transform_of(known: Transform | None, size: int | None, mean: str | None, std: str | None) -> Transform:
    """The transform that the options give, else the one that the library says the model was trained with.

    Raises:
        CommandError: Neither says how images are normalised.
    """
    if known is None and not (mean and std):
        raise CommandError(
            "Nothing says how the images of this model are normalised, and a wrong normalisation would pass unnoticed. "
            "Expected --mean and --std as in its training, such as --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
            "(of pixels from 0 to 1), or hf:, timm: or torchvision: and a name."
        )
    means = _numbers("mean", mean) or (known.mean if known else ())
    stds = _numbers("std", std) or (known.std if known else ())
    if len(means) != len(stds) or len(means) not in (1, 3):
        raise CommandError(
            f"--mean and --std have {len(means)} and {len(stds)} numbers; expected three each, or one for grey images."
        )
    usual, crop = (known.size, known.crop) if known else (224, _MARGIN)
    return Transform(usual if size is None else size, means, stds, crop if size is None else _MARGIN)


def _numbers(option: str, text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise CommandError(
            f"--{option} is {quote(text)}; expected numbers separated by commas, such as 0.5,0.5,0.5."
        ) from error


def _hugging_face_transform(source: ModelSource) -> Transform | None:
    path = Path(source.within) / "preprocessor_config.json"
    if not path.exists():
        return None
    try:
        settings: _Settings = as_type(_Settings, read_json(path))
    except (OSError, FormError) as error:
        raise CommandError(
            f"{clip(str(path))} does not say how images are normalised ({error}); give --size, --mean and --std."
        ) from error
    crop = _MARGIN if settings.do_center_crop else 1.0
    return Transform(settings.pixels(), settings.image_mean or (0.0,) * 3, settings.image_std or (1.0,) * 3, crop)


@dataclass(frozen=True)
class _Settings:
    """The content of a `preprocessor_config.json`."""

    crop_size: int | dict[str, int | None] | None = None
    size: int | dict[str, int | None] | None = None
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    do_center_crop: bool | None = None

    def pixels(self) -> int:
        """Height and width."""
        size = self.crop_size or self.size or 224
        return size if isinstance(size, int) else size.get("height") or size.get("shortest_edge") or 0


def _timm_transform(source: ModelSource) -> Transform | None:
    timm = require("timm", "timm:...")
    settings = timm.get_pretrained_cfg(source.within)
    if settings is None:
        return None
    return Transform(settings.input_size[-1], tuple(settings.mean), tuple(settings.std), settings.crop_pct)


def _torchvision_transform(source: ModelSource) -> Transform | None:
    models = require("torchvision.models", "torchvision:...", "torchvision")
    made = models.get_model_weights(source.within).DEFAULT.transforms()
    return Transform(made.crop_size[0], tuple(made.mean), tuple(made.std), made.crop_size[0] / made.resize_size[0])


_KNOWN: dict[str, Callable[[ModelSource], Transform | None]] = {
    "hf": _hugging_face_transform,
    "timm": _timm_transform,
    "torchvision": _torchvision_transform,
}
