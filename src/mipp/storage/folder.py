"""Saving and loading without pickles: plan.json, model.safetensors, report.json, report.html."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mipp.errors import MippError, PlanMismatchError, clip, few, quote
from mipp.modules.copies import cast, fill, state_of
from mipp.plan.plan import PruningPlan, load_plan
from mipp.report.data import Report
from mipp.runtime.default_device import callers_default_device, own_default_device
from mipp.runtime.mistakes import admit_mistakes, border
from mipp.runtime.paths import as_path
from mipp.runtime.random_states import own_random_states
from mipp.runtime.typed import FormError, as_type, parse_json, read_json
from mipp.storage.places import PAGE, PLAN, REPORT, WEIGHTS, new_folder
from mipp.storage.tensor_files import read_tensors
from mipp.surgery.cut import apply
from mipp.surgery.huggingface import update_config

_TYPES = "types of buffers that are not saved"
_DTYPES = {str(t): t for t in vars(torch).values() if isinstance(t, torch.dtype)}


def save(folder: str | Path, plan: PruningPlan, model: nn.Module, report: Report) -> None:
    """Writes a pruned model to a new folder, all of it or nothing.

    Raises:
        MippError: The folder exists and is not empty, or cannot be written.
    """
    with new_folder(folder) as part:
        (part / PLAN).write_text(plan.to_json(), encoding="utf-8")
        state = state_of(model)
        others = {name: buffer.dtype for name, buffer in model.named_buffers() if name not in state}
        write_weights(state, part / WEIGHTS, others)
        (part / REPORT).write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
        report.to_html(part / PAGE)


@admit_mistakes()
@own_default_device()
@own_random_states()
def load(folder: str | Path, model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """Rebuilds a saved model: cuts a dense one by the saved plan and fills in the saved weights.

    Args:
        folder: What `save` wrote.
        model: A dense instance (not changed) or a function that makes one.

    Raises:
        PlanMismatchError: The folder is missing, damaged or incomplete, or belongs to another model.
        MippError: The dense instance is on the meta device.
    """
    folder = as_path(folder)
    plan = load_plan(folder / PLAN)
    small = apply(plan, _make(model))
    if any(tensor.is_meta for tensor in (*small.parameters(), *small.buffers())):
        raise MippError(
            f"The {type(small).__name__} given to load is on the meta device, where what is not saved has no values. "
            "Make it on the device that it is to work on."
        )
    weights, others = read_weights(folder / WEIGHTS), _types_in(folder / WEIGHTS)
    add_biases(small, weights)
    _check_fit(small, weights, others, folder / WEIGHTS)
    _take_types(small, weights, others)
    fill(small, weights)  # a module's extra state is the dense model's
    update_config(small, plan)
    return small


@border
def _make(model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """The dense model, made by the function that makes one where it was given."""
    with callers_default_device():
        return model() if callable(model) and not isinstance(model, nn.Module) else model


def write_weights(state: Mapping[str, Tensor], path: Path, types: Mapping[str, torch.dtype] | None = None) -> None:
    """Writes tensors, and the types of buffers that are not among them: a model may be in half precision without these.

    Ties come back with the model that is loaded into.
    """
    tensors = tensors_of(state).items()
    separate = {n: t.detach().clone(memory_format=torch.contiguous_format).contiguous() for n, t in tensors}
    path.touch()
    mode = path.stat().st_mode  # as other files get it here; safetensors writes for the owner only
    told = {"format": "pt", _TYPES: json.dumps({name: str(t) for name, t in (types or {}).items()})}
    try:
        save_file(separate, path, told)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    path.chmod(mode)


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict; the extra state of a module may be anything."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads tensors.

    Raises:
        PlanMismatchError: The file is missing, damaged, or of another format.
    """
    try:
        return read_tensors(path)
    except FileNotFoundError as error:
        raise PlanMismatchError(f"There is no {clip(str(path))}; expected the folder that save() wrote.") from error
    except (OSError, FormError) as error:
        raise PlanMismatchError(
            f"{clip(str(path))} is not a readable safetensors file ({error}); it is truncated, damaged, or of another "
            "format. Pickled weights (.pt, .pth) are never read, for safety."
        ) from error


def read_report(folder: Path) -> Report:
    """Reads the report of a saved folder.

    Raises:
        PlanMismatchError: The file is missing or damaged.
    """
    path = folder / REPORT
    try:
        return Report.from_dict(read_json(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = sorted(str(found.parent) for found in folder.glob(f"*/{REPORT}"))
        there = f" In it are {few(inside)}." if inside else ""
        raise PlanMismatchError(
            f"There is no {clip(str(path))}; expected a folder that `mipp prune --out` or save() wrote.{there}"
        ) from error
    except (OSError, FormError, MippError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PlanMismatchError(
            f"{clip(str(path))} cannot be read ({reason}); it is damaged. {PAGE} beside it may still open."
        ) from error


def add_biases(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Makes room for the biases that `Refit(allow_bias=True)` added.

    Raises:
        PlanMismatchError: A bias cannot be one of its layer.
    """
    modules = dict(model.named_modules())
    for name, tensor in weights.items():
        path, _, attribute = name.rpartition(".")
        module = modules.get(path)
        if attribute != "bias" or module is None or getattr(module, "bias", tensor) is not None:
            continue
        outputs = module.out_features if isinstance(module, nn.Linear) else getattr(module, "out_channels", None)
        if tensor.shape != (outputs,) or not (tensor.is_floating_point() or tensor.is_complex()):
            raise PlanMismatchError(
                f"The weights have a '{clip(name)}' of shape {tuple(tensor.shape)} and type {tensor.dtype}, which is "
                f"no bias of the {type(module).__name__} it is for. The file is damaged, or of another model."
            )
        home = next(module.parameters(), tensor).device
        module.bias = nn.Parameter(tensor.to(home, copy=True))


def _types_in(path: Path) -> dict[str, torch.dtype]:
    """The types that a file of weights tells of tensors that it does not hold; none in those of earlier versions.

    Raises:
        PlanMismatchError: They are no types of torch.
    """
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(_TYPES, "{}")
    try:
        return {name: _DTYPES[kind] for name, kind in as_type(dict[str, str], parse_json(text)).items()}
    except (FormError, KeyError) as error:
        raise PlanMismatchError(
            f"{clip(str(path))} is damaged: under {_TYPES!r} it has {quote(text)}; expected names and types of torch."
        ) from error


def _check_fit(model: nn.Module, weights: Mapping[str, Tensor], others: Mapping[str, torch.dtype], path: Path) -> None:
    """Refuses weights that a model does not have, and types that its tensors cannot take."""
    own = state_of(model)
    for name in sorted(own.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else None
        expected = tuple(own[name].shape) if name in own else None
        if found != expected:
            raise PlanMismatchError(
                f"{clip(str(path))} and the plan beside it do not fit: '{clip(name)}' has shape {found} in the file "
                f"and {expected} in the cut model (None: not there). The two files come from different runs."
            )
    types = {**others, **{name: tensor.dtype for name, tensor in weights.items()}}
    for name, tensor in {**dict(model.named_buffers()), **own}.items():
        if name in types and _kind(types[name]) != _kind(tensor.dtype):
            raise PlanMismatchError(
                f"{clip(str(path))} does not fit the model: '{clip(name)}' is of type {types[name]} in the file and of "
                f"type {tensor.dtype} in the cut model. The file is damaged, or of another model."
            )


def _kind(dtype: torch.dtype) -> object:
    """Types of one kind can be converted to each other; packed ones and integers are of a kind of their own."""
    if dtype.is_floating_point and "_x2" not in str(dtype):
        return "floating"
    return "complex" if dtype.is_complex else dtype


def _take_types(model: nn.Module, weights: Mapping[str, Tensor], others: Mapping[str, torch.dtype]) -> None:
    """Gives every tensor the type it has in the file or is told there; any other the type of all that are in it."""
    kinds = {t.dtype for t in weights.values() if t.is_floating_point()}
    usual = kinds.pop() if len(kinds) == 1 else None

    def type_of(name: str, tensor: Tensor) -> torch.dtype:
        if name in weights:
            return weights[name].dtype
        if name in others:
            return others[name]
        return usual if usual is not None and tensor.is_floating_point() else tensor.dtype

    cast(model, type_of)
