"""Passes of the dense model compared: whether samples depend on each other, and how deterministic it is."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.trace import forward
from mipp.graph.trees import results_in, tensors_in
from mipp.modules.copies import working_copy
from mipp.runtime.record import Notes
from mipp.surgery.proof import distance, rounding

_TOLERANCE = 1e-3  # relative; kernels that sum in another order from run to run differ by less, noise by more
_ROUNDINGS = 8  # of types of fewer digits
_NOISE = (
    "{} is not deterministic in eval mode: two passes over the same batch differ by {:.1e} of the outputs, beginning "
    "in {}. Cuts are proven to within this noise, and effects of nodes that are smaller are not told from it."
)


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
