"""Checks of a model and of the options of `prune`, made before anything takes long."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mipp.errors import CalibrationError, MippError, UnsupportedModelError
from mipp.graph.axes import Reason
from mipp.graph.call import Call
from mipp.graph.nodes import PruningGraph
from mipp.graph.trace import forward
from mipp.graph.trees import results_in, tensors_in
from mipp.modules.copies import holds_numbers, working_copy
from mipp.modules.wrappers import article
from mipp.runtime.record import Notes
from mipp.surgery.proof import distance, rounding

_TOLERANCE = 1e-3  # relative; kernels that sum in another order from run to run differ by less, noise by more
_ROUNDINGS = 8  # of types of fewer digits
_NOISE = (
    "{} is not deterministic in eval mode: two passes over the same batch differ by {:.1e} of the outputs, beginning "
    "in {}. Cuts are proven to within this noise, and effects of nodes that are smaller are not told from it."
)


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


def runs_in_parts(model: nn.Module, call: Call) -> bool:
    """True if the first dimension is that of samples which do not depend on each other.

    That of time is not, nor that of the nodes of a graph: the model then refuses some of them, or says something else
    of the last two when it sees those before them.
    """
    model, most = working_copy(model), min(call.samples, 4)
    try:
        several = results_in(forward(model, call.part(0, most)))
        last = results_in(forward(model, call.part(most - 2, most))) if most > 2 else several
    except (UnsupportedModelError, IndexError):
        return not _runs(model, call)  # what does not run at all is refused later, in better words
    pairs = [(a, b) for a, b in zip(several, last, strict=False) if a.ndim and b.ndim]
    along = [(a[-len(b) :], b) for a, b in pairs if len(b) and len(a) * min(most, 2) == len(b) * most]
    return not pairs or (bool(along) and all(_close(a, b) for a, b in along if b.is_floating_point()))


def _runs(model: nn.Module, call: Call) -> bool:
    try:
        forward(model, call)
    except UnsupportedModelError:
        return False
    return True


def check_groups(model: nn.Module, graph: PruningGraph) -> None:
    """Refuses a model in which nothing can be pruned."""
    if not graph.groups:
        reasons = "; ".join(f"{f.name}: {f.reason}" for f in graph.frozen[:5]) or "it has no layers with weights"
        raise UnsupportedModelError(
            f"Nothing in {type(model).__name__} can be pruned ({reasons}). mipp.inspect(model, example) lists all."
        )


def measure_noise(model: nn.Module, call: Call, notes: Notes) -> float:
    """The difference between two passes over the same batch, relative to the outputs; `notes` get one above rounding.

    Raises:
        UnsupportedModelError: The model says something else when it is asked the same again; the innermost module whose
            output differs on equal input is named.
    """
    model = working_copy(model)
    one, other = (tensors_in(forward(model, call)) for _ in range(2))
    noise = distance(one, other)
    if _agree(one, other):
        if noise > rounding(one):
            notes.append(_NOISE.format(type(model).__name__, noise, _beginning(model, call, rounding(one))))
        return noise
    raise UnsupportedModelError(
        f"{type(model).__name__} is not deterministic in eval mode: two passes over the same batch differ, beginning "
        f"in {_beginning(model, call, _TOLERANCE)}. Pruning compares passes, so noise would pass for information. "
        "Switch it off in eval mode, for example with F.dropout(x, training=self.training), and keep no state from one "
        "pass to the next."
    )


def _beginning(model: nn.Module, call: Call, tolerance: float) -> str:
    """The innermost module whose output differs on equal input by more than a tolerance, else the model, in words."""
    first, second = _record(model, call), _record(model, call)
    pairs = [(a, b) for a, b in zip(first, second, strict=False) if a.name == b.name]
    near = partial(_agree, tolerance=tolerance)
    culprit = next((a.name for a, b in pairs if near(a.inputs, b.inputs) and not near(a.outputs, b.outputs)), "")
    return f"module '{culprit}' ({type(model.get_submodule(culprit)).__name__})" if culprit else type(model).__name__


class _Pass:
    """The inputs and outputs of one call of a module."""

    def __init__(self, name: str, inputs: Any, outputs: Any) -> None:
        self.name, self.inputs, self.outputs = name, _copies(inputs), _copies(outputs)


def _record(model: nn.Module, call: Call) -> list[_Pass]:
    """Calls of all modules in the order in which they end, so that the innermost comes first."""
    passes: list[_Pass] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda _, args, kwargs, output: passes.append(_Pass(name, (args, kwargs), output))

    handles = [m.register_forward_hook(hook(n), with_kwargs=True) for n, m in model.named_modules()]
    try:
        forward(model, call)
    finally:
        for handle in handles:
            handle.remove()
    return passes


def _copies(tree: Any) -> list[Tensor]:
    return [t.clone() for t in tensors_in(tree)]


def _agree(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = _TOLERANCE) -> bool:
    return len(found) == len(expected) and all(_close(a, b, tolerance) for a, b in zip(found, expected, strict=True))


def _close(a: Tensor, b: Tensor, tolerance: float = _TOLERANCE) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and torch.equal(a, b)
    scale = float(b.abs().nan_to_num().max()) if b.numel() else 0.0
    tolerance = max(tolerance, _ROUNDINGS * torch.finfo(a.dtype).eps)
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
