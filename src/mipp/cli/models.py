"""Models as the command line names them: an import path, or hf:, timm:, torchvision: and a name; and their weights."""

import importlib
import inspect
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from mipp.cli.console import first_line, only_results_on_stdout
from mipp.cli.errors import CommandError, unknown
from mipp.cli.options import ModelSource
from mipp.errors import few
from mipp.runtime.requirements import require
from mipp.runtime.settings import required_parameters
from mipp.runtime.typed import FormError, read_json
from mipp.storage.places import PRUNED_FORM
from mipp.storage.tensor_files import read_tensors

_INSIDE = ("state_dict", "model_state_dict", "model", "net", "module", "params")
"""Keys under which checkpoints of trainings hold the state dict of the model."""


def make_model(source: ModelSource, seed: int = 0) -> nn.Module:
    """Makes a model, and loads its weights if there are any."""
    torch.manual_seed(seed)  # for models that are made on import
    if source.library:
        with only_results_on_stdout():
            made = _MAKERS[source.library](source)
    else:
        factory = _import(source.name)
        torch.manual_seed(seed)
        made = _make(source.name, factory)
    if source.weights is None:
        return made
    if source.weights.is_dir():
        return mipp.load(source.weights, made)
    _load(made, source.name, source.weights)
    return made


def _from_hugging_face(source: ModelSource) -> nn.Module:
    """The class that the configuration names, with weights as `from_pretrained` finds them."""
    transformers = require("transformers", "hf:...")
    options = {"trust_remote_code": source.trust_remote_code}
    if _is_pruned(Path(source.within)):
        return mipp.from_pretrained(source.within)
    try:
        config = transformers.AutoConfig.from_pretrained(source.within, **options)
        remote = getattr(config, "auto_map", None) or {}
        names = [n for n in remote if n.startswith("AutoModel")] if source.trust_remote_code else []
        names += config.architectures or []
        kind = next((getattr(transformers, n) for n in names if hasattr(transformers, n)), transformers.AutoModel)
        found = kind.from_pretrained(source.within, **options)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise CommandError(
            f"{source.name} cannot be loaded: {first_line(error)}. Expected a folder that save_pretrained wrote, or a "
            "name that the hub knows (and a network that reaches it)."
        ) from error
    assert isinstance(found, nn.Module)
    return found


def _is_pruned(folder: Path) -> bool:
    """True for the folder of a pruned model with widths of its own, which needs no code of the folder."""
    try:
        return PRUNED_FORM in read_json(folder / "config.json")
    except (OSError, FormError, TypeError):
        return False


def _from_timm(source: ModelSource) -> nn.Module:
    timm = require("timm", "timm:...")
    if source.within not in timm.list_models():
        raise unknown("model of timm", source.within, timm.list_models())
    found = _download(source, lambda: timm.create_model(source.within, pretrained=source.weights is None))
    return found


def _from_torchvision(source: ModelSource) -> nn.Module:
    models = require("torchvision.models", "torchvision:...", "torchvision")
    if source.within not in models.list_models():
        raise unknown("model of torchvision", source.within, models.list_models())
    weights = None if source.weights is not None else "DEFAULT"
    return _download(source, lambda: models.get_model(source.within, weights=weights))


def _download(source: ModelSource, make: Callable[[], Any]) -> nn.Module:
    try:
        found = make()
    except (OSError, RuntimeError) as error:
        raise CommandError(
            f"The weights of {source.name} could not be fetched: {first_line(error)}. Expected a network that reaches "
            "them, or --weights FILE."
        ) from error
    assert isinstance(found, nn.Module)
    return found


_MAKERS: dict[str, Callable[[ModelSource], nn.Module]] = {
    "hf": _from_hugging_face,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
}


def _import(path: str) -> Any:
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        known = mipp.zoo.networks()
        hint = (
            f"mipp.zoo:{known[path].__name__}" if path in known else "package.module:factory, such as mipp.zoo:resnet56"
        )
        raise CommandError(f"The model is '{path}'; expected an import path: {hint}.")
    if name.endswith(".py"):
        raise CommandError(f"The model is '{path}'; expected an import path, without .py: {name[:-3]}:{attribute}.")
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
        except (Exception, SystemExit) as error:
            raise CommandError(f"Importing {name} failed with {type(error).__name__}: {first_line(error)}") from error
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
        or (inspect.isfunction(value) and not required_parameters(value) and _may_make_a_model(value))
    ]


def _may_make_a_model(function: Callable[..., Any]) -> bool:
    made = function.__annotations__.get("return", nn.Module)
    return not isinstance(made, type) or issubclass(made, nn.Module)


def _make(path: str, factory: Any) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise CommandError(f"{path} is a {type(factory).__name__}; expected an nn.Module, or what returns one.")
    if missing := required_parameters(factory):
        raise CommandError(
            f"{path} needs {', '.join(missing)}; expected a factory without required arguments. Write one, such as "
            f"`def net(): return {path.rpartition(':')[2]}(...)` in net.py, and name it: net:net."
        )
    with only_results_on_stdout():
        try:
            made = factory()
        except (Exception, SystemExit) as error:
            raise CommandError(f"{path}() failed with {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise CommandError(f"{path}() returned a {type(made).__name__}; expected an nn.Module.")
    return made


def _load(made: nn.Module, path: str, weights: Path) -> None:
    own = made.state_dict(keep_vars=True)
    state = _without_prefix(_state_in(weights, path), own)
    try:
        missing, unexpected = made.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        raise CommandError(f"{weights} does not fit {path}: {' '.join(str(error).split())}") from error
    found = {id(tensor) for name, tensor in own.items() if name in state}
    missing = [name for name in missing if id(own[name]) not in found]  # of tied tensors safetensors keeps one name
    if missing or unexpected:
        lacks = f"it lacks {few(sorted(missing))}" if missing else ""
        extra = f"it has {few(sorted(unexpected))}, which the model has not" if unexpected else ""
        raise CommandError(f"{weights} does not fit {path}: {'; '.join(filter(None, (lacks, extra)))}.")


def _without_prefix(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The state dict without the prefix that a wrapper gave to all of its names."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if not state.keys() & set(own) and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _state_in(weights: Path, path: str) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or what torch.save wrote of tensors only; nothing is unpickled."""
    try:
        if weights.suffix in (".pt", ".pth", ".bin", ".ckpt"):
            return _unwrap(torch.load(weights, map_location="cpu", weights_only=True), weights)
        return read_tensors(weights)
    except FileNotFoundError as error:
        raise CommandError(
            f"There is no file {weights}; expected a .safetensors or .pth file with weights of {path}."
        ) from error
    except (OSError, FormError) as error:
        raise CommandError(f"{weights} is no readable file of weights ({first_line(error)}).") from error
    except Exception as error:  # whatever torch raises for what is no state dict
        raise CommandError(
            f"{weights} holds more than tensors, and pickled objects are never loaded, for safety. Save the state dict "
            "where it was trained: torch.save(model.state_dict(), 'weights.pth')."
        ) from error


def _unwrap(found: Any, weights: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint of a training."""
    while isinstance(found, dict) and not any(isinstance(v, Tensor) for v in found.values()):
        inside = next((found[key] for key in _INSIDE if isinstance(found.get(key), dict)), None)
        if inside is None:
            raise CommandError(
                f"{weights} holds {few(sorted(map(str, found))) or 'nothing'}; expected a state dict, or one under "
                f"{', '.join(_INSIDE)}."
            )
        found = inside
    if not isinstance(found, dict):
        raise CommandError(f"{weights} holds a {type(found).__name__}; expected a state dict.")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
