"""Checks of a model and of the options of `prune`, made before anything takes long."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import nn
from torch.nn.parameter import is_lazy

from mipp.errors import CalibrationError, MippError, UnsupportedModelError
from mipp.graph.axes import Reason
from mipp.graph.nodes import PruningGraph
from mipp.modules.copies import holds_numbers
from mipp.modules.wrappers import article


def check_weights(model: nn.Module) -> None:
    """Refuses parameters and buffers that hold no numbers; a buffer may hide positions by minus infinity."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise UnsupportedModelError(
                f"'{name}' has no shape yet: its layer is lazy. Run the model on a batch once, and prune it then."
            )
        if tensor.is_meta:
            raise UnsupportedModelError(
                f"'{name}' is on the meta device and has no values. Load the weights first; mipp.inspect works without."
            )
        hides = not isinstance(tensor, nn.Parameter) and "running_" not in name
        if not holds_numbers(tensor, hides=hides):
            raise CalibrationError(
                f"The weights hold NaN or infinite values in '{name}'; pass a model that trained well."
            )


def check_option(name: str, value: object, kind: type | UnionType, example: str) -> None:
    """Refuses an option that is not of its type."""
    if value is not None and not isinstance(value, kind):
        raise MippError(f"{name} is {article(value)}; expected {example}, or None.")


def check_method(method: Any, name: str = "method") -> None:
    """Refuses what has no `plan`, such as the name or the class of a method, and fields that have no such choice."""
    if isinstance(method, type) or not callable(getattr(method, "plan", None)):
        hint = f"; make one: {method.__name__}()" if isinstance(method, type) else ", such as mipp.methods.MIPP()"
        raise MippError(f"{name} is {article(method)}; expected a method object{hint}.")
    if not is_dataclass(method):
        return
    hints: dict[str, Any] = {}
    with suppress(NameError):  # of a type that only its module knows
        hints = get_type_hints(type(method))
    for field in fields(method):
        value, choices = getattr(method, field.name), hints.get(field.name)
        if get_origin(choices) is Literal and value not in get_args(choices):
            expected = " or ".join(map(repr, get_args(choices)))
            raise MippError(f"{type(method).__name__}({field.name}={value!r}): expected {expected}.")
        if field.name == "like" and value is not None:
            check_method(value, f"{type(method).__name__}(like=...)")


def list_patterns(patterns: Iterable[str]) -> list[str]:
    """The patterns of `exclude`: one string, or several from any iterable, also from one that can be read only once.

    Raises:
        MippError: It holds anything but names.
    """
    found = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    for pattern in found:
        if not isinstance(pattern, str):
            raise MippError(
                f"exclude holds {article(pattern)}; expected names of modules or globs, such as ['head', 'layer4.*']; "
                "model.named_modules() lists them."
            )
    return found


def find_excluded(model: nn.Module, patterns: Sequence[str]) -> dict[str, Reason]:
    """The modules that the caller excludes, as globs of module names with the reason.

    Raises:
        MippError: A pattern names no module; the nearest name is suggested.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, 1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Its modules are {', '.join(names[:8])} ..."
            raise MippError(f"exclude names '{pattern}', but {type(model).__name__} has no such module.{hint}")
    return {p: Reason("excluded by the caller") for pattern in patterns for p in (pattern, f"{pattern}.*")}


def check_groups(model: nn.Module, graph: PruningGraph) -> None:
    """Refuses a model in which nothing can be pruned."""
    if not graph.groups:
        reasons = "; ".join(f"{f.name}: {f.reason}" for f in graph.frozen[:5]) or "it has no layers with weights"
        raise UnsupportedModelError(
            f"Nothing in {type(model).__name__} can be pruned ({reasons}). mipp.inspect(model, example) lists all."
        )
