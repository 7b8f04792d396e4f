"""Checks of a model and of the options of `prune`, made before anything takes long."""

from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from numbers import Integral
from types import UnionType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mipp.errors import CalibrationError, MippError, UnsupportedModelError, clip, quote
from mipp.graph.axes import Reason
from mipp.graph.nodes import PruningGraph
from mipp.modules.copies import holds_numbers
from mipp.modules.wrappers import article
from mipp.runtime.settings import check_settings

_LARGEST_SEED = 2**62


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


def check_seed(seed: object) -> None:
    """Refuses what is no seed; others are made from it by adding."""
    if not isinstance(seed, Integral) or abs(int(seed)) > _LARGEST_SEED:
        raise MippError(
            f"seed is {quote(seed)}; expected a whole number of at most 62 bits, from which all that is random is "
            "drawn."
        )


def check_method(method: Any, name: str = "method") -> None:
    """Refuses what has no `plan`, such as the name or the class of a method, and fields that have no such choice."""
    if isinstance(method, type) or not callable(getattr(method, "plan", None)):
        hint = f"; make one: {method.__name__}()" if isinstance(method, type) else ", such as mipp.methods.MIPP()"
        raise MippError(f"{name} is {article(method)}; expected a method object{hint}.")
    if not is_dataclass(method):
        return
    check_settings(method)
    if (like := getattr(method, "like", None)) is not None:
        check_method(like, f"{type(method).__name__}(like=...)")


def list_patterns(patterns: Iterable[str]) -> list[str]:
    """The patterns of `exclude`: one string, or several from any iterable, also from one that can be read only once.

    Raises:
        MippError: It holds anything but names.
    """
    several = isinstance(patterns, Iterable) and not isinstance(patterns, str | bytes | Tensor)
    found: list[Any] = list(patterns) if several else [patterns]
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
            near = get_close_matches(clip(pattern), names, 1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Its modules are {', '.join(names[:8])} ..."
            raise MippError(
                f"exclude names '{clip(pattern)}', but {type(model).__name__} has no such module.{clip(hint)}"
            )
    return {p: Reason("excluded by the caller") for pattern in patterns for p in (pattern, f"{pattern}.*")}


def check_groups(model: nn.Module, graph: PruningGraph) -> None:
    """Refuses a model in which nothing can be pruned."""
    if not graph.groups:
        reasons = "; ".join(f"{f.name}: {f.reason}" for f in graph.frozen[:5]) or "it has no layers with weights"
        raise UnsupportedModelError(
            f"Nothing in {type(model).__name__} can be pruned ({reasons}). mipp.inspect(model, example) lists all."
        )
