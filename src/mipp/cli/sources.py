"""Models and calibration data together, as they are named on the command line."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import mipp
from mipp.cli.console import first_line, note
from mipp.cli.errors import CommandError, unknown
from mipp.cli.images import measure_accuracy, open_images, transform_of
from mipp.cli.models import ModelSource
from mipp.cli.texts import open_text
from mipp.errors import CalibrationError

_BATCH = 128


@dataclass(frozen=True)
class Data:
    """Calibration data: batches, which may have labels, and how to evaluate on what was held out."""

    batches: Iterator[Any]
    loss_fn: Callable[..., Tensor] | None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None


@dataclass(frozen=True)
class DataSource:
    """Calibration data as they are named on the command line: one of the first three fields.

    Attributes:
        data: A data set of the zoo, a .safetensors or a .npy file.
        images: A folder of images.
        text: A file of text, or a table.
        data_dir: Folder of the zoo's data.
        size, mean, std: How images are read.
        skip_bad: Leave out images that cannot be read.
        length: Tokens in a piece of text.
        tokenizer: Folder or name of the tokenizer.
        column: Column of a table.
    """

    data: str | None = None
    images: Path | None = None
    text: Path | None = None
    data_dir: Path | None = None
    size: int | None = None
    mean: str | None = None
    std: str | None = None
    skip_bad: bool = False
    length: int = 128
    tokenizer: str | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("data", "images", "text") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"--{name}" for name in given) or "none of them is given"
            raise CommandError(f"Calibration data are one of --data, --images and --text; {found}.")

    @property
    def words(self) -> str:
        """The kind of the data, for people."""
        return self.data or (f"images in {self.images}" if self.images else f"text in {self.text}")

    def open(self, source: ModelSource, model: nn.Module, max_samples: int, seed: int) -> Data:
        """The data themselves, for a model."""
        if self.images is not None:
            return _image_data(self, source, model, seed)
        if self.text is not None:
            pieces = open_text(self.text, source, self.tokenizer, self.length, self.column)
            causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
            return Data(iter(pieces.batches(seed)), None, pieces.perplexity if causal else None)
        assert self.data is not None
        return _named_data(self.data, self.data_dir, model, max_samples, seed)


@dataclass(frozen=True)
class Source:
    """A model and what it is calibrated on."""

    model: ModelSource
    data: DataSource
    max_samples: int
    seed: int

    def open(self) -> tuple[nn.Module, Data]:
        """The model and the data themselves."""
        made = self.model.make(self.seed)
        return made, self.data.open(self.model, made, self.max_samples, self.seed)


def _image_data(options: DataSource, source: ModelSource, model: nn.Module, seed: int) -> Data:
    assert options.images is not None
    transform = transform_of(source, options.size, options.mean, options.std)
    classes = getattr(getattr(model, "config", None), "label2id", None)
    own, held_out = open_images(options.images, transform, classes, seed=seed, skip_bad=options.skip_bad)
    batches = own.batches(lambda text: note(text, quiet=False))
    evaluate = None if held_out is None else lambda m: measure_accuracy(m, held_out)
    return Data(batches, nn.functional.cross_entropy if own.labels is not None else None, evaluate)


def _named_data(source: str, data_dir: Path | None, like: nn.Module, max_samples: int, seed: int) -> Data:
    """A data set of the zoo, shuffled, or a file, in its own order."""
    if source in mipp.zoo.DATA_SETS:
        train, test = (mipp.zoo.load(source, split, data_dir) for split in ("train", "test"))
        batches = train.batches(_BATCH, limit=max_samples, generator=torch.Generator().manual_seed(seed))
        return Data(batches, nn.functional.cross_entropy, lambda m: {"accuracy": mipp.zoo.accuracy(m, test)})
    inputs, labels = _from_file(source)
    if inputs.is_floating_point():
        dtypes = [p.dtype for p in like.parameters() if p.is_floating_point()]
        inputs = inputs.to(dtypes[0] if dtypes else inputs.dtype)
    classes = labels is not None and not labels.is_floating_point()
    return Data(_batches(inputs, labels), nn.functional.cross_entropy if classes else None, None)


def device(name: str | None) -> torch.device | None:
    """The device of that name, tried out."""
    if name is None:
        return None
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CommandError(f"--device {name} cannot be used: {first_line(error)}") from error


def _from_file(source: str) -> tuple[Tensor, Tensor | None]:
    path = Path(source)
    if path.suffix not in (".safetensors", ".npy"):
        if path.suffix or len(path.parts) > 1 or path.exists():
            raise CalibrationError(
                f"--data is '{source}'; expected {', '.join(mipp.zoo.DATA_SETS)}, a .safetensors or a .npy file."
            )
        raise unknown("data set", source, mipp.zoo.DATA_SETS)
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)), None
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise CalibrationError(f"There is no file {path} to read calibration data from.") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CalibrationError(f"{path} cannot be read as {path.suffix} ({first_line(error)}).") from error
    if "input" not in tensors:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise CalibrationError(
            f"{path} holds {found}; expected a tensor 'input', and 'labels' if the method needs them."
        )
    return tensors["input"], tensors.get("labels")


def _batches(inputs: Tensor, labels: Tensor | None) -> Iterator[Any]:
    for start in range(0, len(inputs) if inputs.ndim else 1, _BATCH):
        part = inputs[start : start + _BATCH] if inputs.ndim else inputs
        yield part if labels is None else (part, labels[start : start + _BATCH])
