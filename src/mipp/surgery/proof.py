"""Proof by running: the cut model computes what the masked model computes, in float64."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.nodes import companions
from mipp.graph.trace import forward
from mipp.graph.trees import results_in
from mipp.modules.copies import cast, full_copy
from mipp.plan.plan import PruningPlan
from mipp.runtime.record import Notes
from mipp.surgery.cut import apply
from mipp.surgery.masked import mask
from mipp.surgery.precision import forward_in_double, forward_in_single

log = logging.getLogger(__name__)
_MARGIN, _NOISIEST = 8, 1e-2  # times noise or rounding; relative to the outputs
_ROUNDINGS = 32  # of a type of fewer digits, by which two ways to compute the same may differ in the end


def outputs(model: nn.Module, call: Call, dtype: torch.dtype | None = torch.float64) -> list[Tensor]:
    """The outputs of a model in eval mode, computed by a copy in `dtype` (None: in its own)."""
    copied = full_copy(model)
    copied.eval()
    if dtype is None:
        return results_in(forward(copied, call))
    cast(copied, lambda _, t: dtype if t.is_floating_point() else dtype.to_complex() if t.is_complex() else t.dtype)
    return results_in(forward(copied, call.map(lambda t: t.to(dtype) if t.is_floating_point() else t)))


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference relative to the typical size of each output; infinite if shapes, infinities or NaN differ."""
    if len(found) != len(expected):
        return float("inf")
    return max((_distance(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.is_meta or not a.numel():
        return 0.0
    if a.is_complex():
        return _distance(torch.view_as_real(a), torch.view_as_real(b))
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return float("inf")
    sizes = b[finite].abs()
    usual = sizes[sizes < 1e30]  # without the numbers that stand for minus infinity
    scale = float(usual.max().clamp_min(1e-30)) if len(usual) else 1.0
    return float(((a - b)[finite].abs() / sizes.clamp_min(scale)).max()) if len(sizes) else 0.0


def rounding(tensors: Iterable[Tensor]) -> float:
    """The relative rounding error between two ways to compute the same, in the coarsest type of the tensors."""
    kinds = {t.dtype for t in tensors if t.is_floating_point()}
    return max((_ROUNDINGS * torch.finfo(kind).eps for kind in kinds), default=0.0)


def agrees(plan: PruningPlan, model: nn.Module, call: Call, notes: Notes | None = None) -> bool:
    """True if the cut model runs and computes what the masked model computes; `notes` get a low precision."""
    same, precision = compare(plan, model, call)
    if same and precision == _OWN and notes is not None:
        notes.append(_IN_OWN)
    return same


def compare(plan: PruningPlan, model: nn.Module, call: Call) -> tuple[bool, str]:
    """True if the cut model computes what the masked model computes; and the precision in which they were compared.

    The two are there one after the other, and in their own type: weights are cast to float64 op by op. Where that
    cannot be (recurrent layers refuse inputs of another type), copies in float64 are compared; where the code asks for
    a type, the models in their own. Where passes of the masked model differ among themselves, so may the cut one.
    """
    for name, compute, tolerance in _PRECISIONS:
        try:
            expected = compute(mask(plan, model), call)
        except UnsupportedModelError:
            if name == _OWN:  # a model that does not run at all is not the fault of the cut
                raise
            continue
        try:
            with silent():
                found = compute(apply(plan, model), call)
            coarse = rounding([*model.parameters(), *found]) if name == _OWN else 0.0
            gap = distance(found, expected)
            if tolerance < gap <= _NOISIEST:  # the model itself may say something else each time
                coarse = max(coarse, _MARGIN * distance(compute(mask(plan, model), call), expected))
            return gap <= max(tolerance, coarse), name
        except UnsupportedModelError as error:
            log.info("a trial cut failed: %s", error)
            return False, name
    return False, _OWN


def agrees_at_once(plan: PruningPlan, model: nn.Module, call: Call) -> bool:
    """True if passes in float32 already differ by no more than rounding: a trial is then decided, and float64 spared.

    Weights of 16 bits are cast op by op. What a plan keeps in the end is proven in float64 in any case.
    """
    if not {p.dtype for p in model.parameters()} <= {torch.float32, torch.bfloat16, torch.float16}:
        return False
    try:
        expected = _in_single(mask(plan, model), call)
        with silent():
            found = _in_single(apply(plan, model), call)
    except UnsupportedModelError:
        return False
    return distance(found, expected) <= _MARGIN * _ROUNDINGS * torch.finfo(torch.float32).eps


def _in_single(model: nn.Module, call: Call) -> list[Tensor]:
    model.eval()
    halves = any(p.dtype != torch.float32 for p in model.parameters())
    return results_in(forward_in_single(model, call) if halves else forward(model, call))


@contextmanager
def silent() -> Iterator[None]:
    """Keeps back the warnings of a trial: it may fail, and nobody asked for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _in_double(model: nn.Module, call: Call) -> list[Tensor]:
    model.eval()
    return results_in(forward_in_double(model, call))


_OWN = "the model's own precision"
_IN_OWN = (
    "The cut was compared with the masked network in the model's own precision, to a thousandth of the outputs or the "
    "rounding of their type: the model does not run in float64."
)
_PRECISIONS = (("float64", _in_double, 1e-8), ("float64", outputs, 1e-8), (_OWN, partial(outputs, dtype=None), 1e-3))


def wrong_groups(plan: PruningPlan, model: nn.Module, call: Call, notes: Notes | None = None) -> list[str]:
    """Groups whose cut differs from their mask; none when the whole plan agrees, and `notes` get how exactly."""
    if agrees(plan, model, call, notes):
        return []
    changed = [name for name, group in plan.groups.items() if len(plan.kept[name]) < group.size]
    whole = {name: range(group.size) for name, group in plan.groups.items()}
    alone = [n for n in changed if not agrees(plan.with_kept({**whole, **_together(plan, n)}), model, call)]
    return alone or _wrong_together(plan, model, call, changed)


def _wrong_together(plan: PruningPlan, model: nn.Module, call: Call, changed: Sequence[str]) -> list[str]:
    """Groups of which each can be cut alone: those that cannot be cut besides the others before them."""
    kept: dict[str, Sequence[int]] = {name: range(group.size) for name, group in plan.groups.items()}
    wrong = []
    for name in changed:
        if agrees(plan.with_kept({**kept, **_together(plan, name)}), model, call):
            kept |= _together(plan, name)
        else:
            wrong.append(name)
    return wrong or list(changed)


def _together(plan: PruningPlan, name: str) -> dict[str, Sequence[int]]:
    """The nodes that a plan keeps of a group, and of those that stay as wide."""
    return {other: plan.kept[other] for other in companions(plan.groups, name)}
