"""Models and calibration data together, as they are named on the command line."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from mipp.cli.arrays import open_arrays
from mipp.cli.console import first_line, note
from mipp.cli.errors import CommandError
from mipp.cli.images import ImageFolder, count_classes, known_transform, open_images, transform_of
from mipp.cli.models import ModelSource
from mipp.cli.texts import Table, open_text
from mipp.errors import CalibrationError, clip
from mipp.modules.copies import working_copy

_BATCH = 128
_EVALUATED = 1000
"""Images on which accuracy is measured, at most."""


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
        labels: Classes of the samples of a .npy file, another .npy file.
        hold_out: Of a file with labels, keep a fifth to measure accuracy on.
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
    labels: Path | None = None
    hold_out: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("data", "images", "text") if getattr(self, name) is not None]
        if self.labels is not None and self.data is None:
            raise CommandError("--labels belongs to --data FILE.npy; images have their labels from class folders.")
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
            table = Table(self.text, self.column, self.skip_bad)
            pieces = open_text(table, source, self.tokenizer, self.length)
            causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
            return Data(iter(pieces.batches(seed)), None, pieces.perplexity if causal else None)
        assert self.data is not None
        return _named_data(self, source, model, max_samples, seed)


@dataclass(frozen=True)
class Source:
    """A model and what it is calibrated on."""

    model: ModelSource
    data: DataSource
    max_samples: int
    seed: int

    def holding_out(self, wanted: bool) -> "Source":  # noqa: FBT001
        """The same source; of a file with labels, a fifth is kept to measure accuracy on."""
        return replace(self, data=replace(self.data, hold_out=wanted))

    def open(self) -> tuple[nn.Module, Data]:
        """The model and the data themselves."""
        made = self.model.make(self.seed)
        return made, self.data.open(self.model, made, self.max_samples, self.seed)


def _image_data(options: DataSource, source: ModelSource, model: nn.Module, seed: int) -> Data:
    assert options.images is not None
    known = known_transform(source)
    transform = transform_of(known, options.size, options.mean, options.std)
    if known is not None and (transform.mean, transform.std) != (known.mean, known.std):
        note(
            f"{source.name} was trained with --mean {_list(known.mean)} --std {_list(known.std)}; others are given.",
            quiet=False,
        )
    classes = getattr(getattr(model, "config", None), "label2id", None)
    own, held_out = open_images(options.images, transform, classes, seed=seed, skip_bad=options.skip_bad)
    count = count_classes(options.images, classes)
    if own.labels is not None and count is not None and (outputs := _count_outputs(model, own)) not in (None, count):
        note(
            f"{options.images} has {count} class folders, and {source.name} has {outputs} outputs: the classes are "
            "others, and no accuracy is measured.",
            quiet=False,
        )
        own, held_out = replace(own, labels=None), None
    batches = own.batches(lambda text: note(text, quiet=False))
    loss_fn = nn.functional.cross_entropy if own.labels is not None else None
    if held_out is None:
        return Data(batches, loss_fn, None)
    return Data(batches, loss_fn, lambda m: measure_accuracy(m, held_out.batches(lambda _: None), _EVALUATED))


def _count_outputs(model: nn.Module, images: ImageFolder) -> int | None:
    """Width of the logits; None of a model that fails here: whoever prunes it says why."""
    try:
        with torch.no_grad():
            batch, _ = next(iter(images.batches(lambda _: None)))
            return _logits(working_copy(model), batch[:2]).shape[1]
    except Exception:
        return None


def measure_accuracy(model: nn.Module, batches: Iterable[Any], most: float = math.inf) -> dict[str, float]:
    """Percentage of the samples whose class is the largest output; of the first `most` of them, in whole batches.

    Raises:
        CalibrationError: There is no sample that can be read.
    """
    correct = total = 0
    with torch.no_grad():
        for inputs, labels in batches:
            correct += int((_logits(model, inputs).argmax(1).cpu() == labels).sum())
            total += len(labels)
            if total >= most:
                break
    if not total:
        raise CalibrationError("None of the samples that accuracy is measured on can be read.")
    return {"accuracy": 100 * correct / total}


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    home = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    output = model(inputs.to(home))
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def _list(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _named_data(options: DataSource, source: ModelSource, like: nn.Module, max_samples: int, seed: int) -> Data:
    """A data set of the zoo, shuffled, or a file, in its own order."""
    assert options.data is not None
    if options.data in mipp.zoo.DATA_SETS:
        if options.labels is not None:
            raise CommandError(f"--labels {options.labels}: {options.data} has labels of its own; leave them out.")
        train, test = (mipp.zoo.load(options.data, split, options.data_dir) for split in ("train", "test"))
        batches = train.batches(_BATCH, limit=max_samples, generator=torch.Generator().manual_seed(seed))
        return Data(batches, nn.functional.cross_entropy, lambda m: {"accuracy": mipp.zoo.accuracy(m, test)})
    arrays = open_arrays(options.data, options.labels, like)
    if source.library and arrays.look_raw and known_transform(source) is not None:
        note(
            f"All values of {options.data} are at least 0, and {source.name} was trained on normalised images, (pixels "
            "- mean) / std, which are negative too: are they normalised?",
            quiet=False,
        )
    if not arrays.has_classes:
        return Data(arrays.batches(), None, None)
    if not options.hold_out:
        return Data(arrays.batches(), nn.functional.cross_entropy, None)
    held_out, own = arrays.split(seed)
    return Data(own.batches(), nn.functional.cross_entropy, lambda m: measure_accuracy(m, held_out.batches()))


def device(name: str | None) -> torch.device | None:
    """The device of that name, tried out."""
    if name is None:
        return None
    try:
        return torch.zeros(1, device=name).device
    except Exception as error:  # whatever torch says of a device that is not there
        raise CommandError(f"--device {clip(name)} cannot be used: {first_line(error)}") from error
