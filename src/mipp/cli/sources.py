"""Models by import path, weights by file, data by name or file."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

import mipp
from mipp import zoo
from mipp.cli.errors import CommandError, unknown
from mipp.errors import CalibrationError

_BATCH = 128


@dataclass(frozen=True)
class Data:
    """Calibration data: batches, which may have labels, and how to evaluate on what was held out."""

    batches: Iterator[Any]
    loss_fn: Callable[..., Tensor] | None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None


@dataclass(frozen=True)
class Source:
    """A model and what it is calibrated on, as they are named on the command line."""

    model: str
    weights: Path | None
    data: str
    data_dir: Path | None
    max_samples: int
    seed: int

    def open(self) -> tuple[nn.Module, Data]:
        """The model and the data themselves."""
        made = model(self.model, self.weights, self.seed)
        return made, data(self.data, self.data_dir, made, self.max_samples, self.seed)


def model(path: str, weights: Path | None, seed: int = 0) -> nn.Module:
    """Makes the model at an import path, and loads its weights if there are any."""
    torch.manual_seed(seed)  # for models that are made on import
    factory = _import(path)
    torch.manual_seed(seed)
    made = _make(path, factory)
    if weights is None:
        return made
    if weights.is_dir():
        return mipp.load(weights, made)
    _load(made, path, weights)
    return made


def data(source: str, data_dir: Path | None, like: nn.Module, max_samples: int, seed: int) -> Data:
    """Opens calibration data: a data set of the zoo, shuffled, or a file, in its own order."""
    if source in zoo.DATA_SETS:
        train, test = (zoo.load(source, split, data_dir) for split in ("train", "test"))
        batches = train.batches(_BATCH, limit=max_samples, generator=torch.Generator().manual_seed(seed))
        return Data(batches, nn.functional.cross_entropy, lambda m: {"accuracy": zoo.accuracy(m, test)})
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
        raise CommandError(f"--device {name} cannot be used: {_first_line(error)}") from error


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Sends to stderr what the code of others prints meanwhile."""
    with redirect_stdout(sys.stderr):
        yield


def note(text: str, *, quiet: bool) -> None:
    """Tells people something that is no result."""
    if not quiet:
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def _import(path: str) -> Any:
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        known = zoo.networks()
        hint = (
            f"mipp.zoo:{known[path].__name__}" if path in known else "package.module:factory, such as mipp.zoo:resnet56"
        )
        raise CommandError(f"The model is '{path}'; expected an import path: {hint}.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with only_results_on_stdout():
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise CommandError(
                f"The model is '{path}', but {error.name} cannot be imported; expected a module that is installed, or "
                f"in the current directory {here}."
            ) from error
        except Exception as error:
            raise CommandError(f"Importing {name} failed with {type(error).__name__}: {_first_line(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise unknown(f"factory in {name}", attribute, _factories(found))
        found = getattr(found, part)
    return found


def _factories(module: Any) -> list[str]:
    """Names in a module that may be or make a model: its public ones, without modules and types of other things."""
    named = {n: getattr(module, n) for n in getattr(module, "__all__", dir(module)) if not n.startswith("_")}
    return [
        name
        for name, value in named.items()
        if isinstance(value, nn.Module)
        or (isinstance(value, type) and issubclass(value, nn.Module))
        or (inspect.isfunction(value) and not _required_parameters(value) and _may_make_a_model(value))
    ]


def _may_make_a_model(function: Callable[..., Any]) -> bool:
    made = function.__annotations__.get("return", nn.Module)
    return not isinstance(made, type) or issubclass(made, nn.Module)


def _make(path: str, factory: Any) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise CommandError(f"{path} is a {type(factory).__name__}; expected an nn.Module, or what returns one.")
    if missing := _required_parameters(factory):
        raise CommandError(
            f"{path} needs {', '.join(missing)}; expected a factory without required arguments. Write one, such as "
            f"`def net(): return {path.rpartition(':')[2]}(...)` in net.py, and name it: net:net."
        )
    with only_results_on_stdout():
        try:
            made = factory()
        except Exception as error:
            raise CommandError(f"{path}() failed with {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise CommandError(f"{path}() returned a {type(made).__name__}; expected an nn.Module.")
    return made


def _required_parameters(factory: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in optional]


def _load(made: nn.Module, path: str, weights: Path) -> None:
    try:
        missing, unexpected = load_model(made, weights, strict=False)
    except FileNotFoundError as error:
        raise CommandError(
            f"There is no file {weights}; expected a .safetensors file with weights of {path}."
        ) from error
    except (SafetensorError, OSError) as error:
        raise CommandError(
            f"{weights} is no readable safetensors file ({error}). Pickled weights (.pt, .pth) are never read, for "
            "safety; convert them: safetensors.torch.save_file(torch.load('x.pt', weights_only=True), 'x.safetensors')."
        ) from error
    except RuntimeError as error:  # shapes
        raise CommandError(f"{weights} does not fit {path}: {' '.join(str(error).split())}") from error
    if missing or unexpected:
        lacks = f"it lacks {_few(missing)}" if missing else ""
        extra = f"it has {_few(unexpected)}, which the model has not" if unexpected else ""
        raise CommandError(f"{weights} does not fit {path}: {'; '.join(filter(None, (lacks, extra)))}.")


def _few(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _from_file(source: str) -> tuple[Tensor, Tensor | None]:
    path = Path(source)
    if path.suffix not in (".safetensors", ".npy"):
        if path.suffix or len(path.parts) > 1 or path.exists():
            raise CalibrationError(
                f"--data is '{source}'; expected {', '.join(zoo.DATA_SETS)}, a .safetensors or a .npy file."
            )
        raise unknown("data set", source, zoo.DATA_SETS)
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)), None
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise CalibrationError(f"There is no file {path} to read calibration data from.") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CalibrationError(f"{path} cannot be read as {path.suffix} ({_first_line(error)}).") from error
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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
