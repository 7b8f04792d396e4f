"""Models and calibration data together, as they are named on the command line."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from mipp.cli.arrays import open_arrays
from mipp.cli.console import first_line, note
from mipp.cli.errors import CommandError
from mipp.cli.images import ImageFolder, count_classes, known_transform, open_images, transform_of
from mipp.cli.models import make_model
from mipp.cli.options import DataSource, ModelSource, Source
from mipp.cli.texts import Table, open_text
from mipp.errors import CalibrationError, clip
from mipp.modules.copies import working_copy
from mipp.modules.placement import device_of

_BATCH = 128
_EVALUATED = 1000
"""Images on which accuracy is measured, at most."""


@dataclass(frozen=True)
class Data:
    """Calibration data: batches, which may have labels, and how to evaluate on what was held out."""

    batches: Iterator[Any]
    loss_fn: Callable[..., Tensor] | None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None

    def calibration(self, max_samples: int | None) -> mipp.Calibration | Iterable[Any]:
        """The batches with the number of samples to read; by themselves where none is given."""
        return self.batches if max_samples is None else mipp.Calibration(self.batches, max_samples)


def open_source(source: Source, *, hold_out: bool = False) -> tuple[nn.Module, Data]:
    """A model and the data themselves; of a file with labels, a fifth may be kept to measure accuracy on."""
    model, options = make_model(source.model, source.seed), source.data
    if options.images is not None:
        return model, _image_data(options, source.model, model, source.seed)
    if options.text is not None:
        table = Table(options.text, options.column, options.skip_bad)
        pieces = open_text(table, source.model, options.tokenizer, options.length)
        causal = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        return model, Data(iter(pieces.batches(source.seed)), None, pieces.perplexity if causal else None)
    return model, _named_data(source, model, hold_out=hold_out)


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
    output = model(inputs.to(device_of(model)))
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def _list(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _named_data(source: Source, like: nn.Module, *, hold_out: bool) -> Data:
    """A data set of the zoo, shuffled, or a file, in its own order."""
    options, model = source.data, source.model
    assert options.data is not None
    if options.data in mipp.zoo.DATA_SETS:
        if options.labels is not None:
            raise CommandError(f"--labels {options.labels}: {options.data} has labels of its own; leave them out.")
        train, test = (mipp.zoo.load(options.data, split, options.data_dir) for split in ("train", "test"))
        batches = train.batches(_BATCH, limit=source.max_samples, generator=torch.Generator().manual_seed(source.seed))
        return Data(batches, nn.functional.cross_entropy, lambda m: {"accuracy": mipp.zoo.accuracy(m, test)})
    arrays = open_arrays(options.data, options.labels, like)
    if model.library and arrays.look_raw and known_transform(model) is not None:
        note(
            f"All values of {options.data} are at least 0, and {model.name} was trained on normalised images, (pixels "
            "- mean) / std, which are negative too: are they normalised?",
            quiet=False,
        )
    if not arrays.has_classes:
        return Data(arrays.batches(), None, None)
    if not hold_out:
        return Data(arrays.batches(), nn.functional.cross_entropy, None)
    held_out, own = arrays.split(source.seed)
    return Data(own.batches(), nn.functional.cross_entropy, lambda m: measure_accuracy(m, held_out.batches()))


def device(name: str | None) -> torch.device | None:
    """The device of that name, tried out."""
    if name is None:
        return None
    try:
        return torch.zeros(1, device=name).device
    except Exception as error:  # whatever torch says of a device that is not there
        raise CommandError(f"--device {clip(name)} cannot be used: {first_line(error)}") from error
