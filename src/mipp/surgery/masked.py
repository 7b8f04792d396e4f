"""Masking: the function of the cut model, computed at the size of the dense one.

Ops that run over axes with removed positions run over the positions that are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.nodes import Reduction
from mipp.graph.trace import OpStream, call_op, module_stack, run
from mipp.graph.trees import map_tensors, tensors_in
from mipp.modules.weight_norm import settle
from mipp.plan.plan import PruningPlan
from mipp.plan.rounds import places_to_keep
from mipp.runtime.default_device import own_default_device
from mipp.runtime.mistakes import admit_mistakes
from mipp.runtime.random_states import own_random_states
from mipp.surgery.cut import copy_for, silence

Kept = Mapping[tuple[str, str, int], list[tuple[Reduction, Tensor]]]


@admit_mistakes()
@own_default_device()
@own_random_states()
def mask(plan: PruningPlan, model: nn.Module) -> nn.Module:
    """Returns a copy of the same size that computes what `apply` computes: removed nodes are silenced.

    Weights that read removed nodes are zero. Where an op runs over an axis with removed positions (layer norm, softmax,
    a mean over channels), it runs over the others; such a copy has no gradients.

    Raises:
        PlanMismatchError: The plan belongs to another model; the first difference is named.
    """
    same = copy_for(plan, model)
    silence(same, {n: np.setdiff1d(np.arange(g.size), plan.kept[n]) for n, g in plan.groups.items()}, plan)
    settle(same)
    kept = _axes_to_keep(plan)
    if kept:
        same.forward = MaskedForward(same, kept)
    return same


def _axes_to_keep(plan: PruningPlan) -> dict[tuple[str, str, int], list[tuple[Reduction, Tensor]]]:
    """Positions that stay on the axes that ops run over, for every op that loses some."""
    kept: dict[tuple[str, str, int], list[tuple[Reduction, Tensor]]] = {}
    for r in plan.reductions:
        stay = places_to_keep(r, plan)
        if len(stay) < r.length:
            kept.setdefault((r.module, r.op, r.call), []).append((r, torch.from_numpy(stay)))
    return kept


class MaskedForward:
    """Stands in for `forward` of a masked model: passes run in inference mode, op by op.

    Args:
        model: The masked model, as yet with its own `forward`.
        kept: Positions kept, for every op that must leave some out.
    """

    def __init__(self, model: nn.Module, kept: Kept) -> None:
        self.model, self.inner, self.kept = model, model.forward, kept

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def how(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with module_stack(model, stream.modules), stream:
                return self.inner(*args, **kwargs)

        stream = _OverKept(self.kept)
        output = run(self.model, Call(args, kwargs, how).map(Tensor.clone))
        return map_tensors(output, lambda t: t.clone() if t.is_inference() else t)


class _OverKept(OpStream):
    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self.kept, self.modules = kept, [""]
        self._calls: dict[tuple[str, str], int] = {}

    def on_op(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        key = self.modules[-1], name
        call = self._calls.get(key, 0)
        self._calls[key] = call + 1
        todo = self.kept.get((*key, call))
        return call_op(func, args, kwargs) if todo is None else _over_kept(func, args, kwargs, todo)


def _over_kept(
    func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], todo: Sequence[tuple[Reduction, Tensor]]
) -> Any:
    """Runs an op on the positions kept, and puts the result back in its places."""
    inputs = tensors_in((args, kwargs))
    chosen = list(inputs)
    for reduction, positions in todo:
        for number, dim in reduction.reads:
            if inputs[number].shape[dim] != reduction.length:
                raise UnsupportedModelError(
                    f"{reduction.op} in '{reduction.module}' runs over {inputs[number].shape[dim]} positions where "
                    f"{reduction.length} were traced: the model takes another path on these inputs."
                )
            chosen[number] = chosen[number].index_select(dim, positions.to(chosen[number].device))
    numbered = iter(chosen)
    new_args = map_tensors(args, lambda _: next(numbered))
    new_kwargs = {k: map_tensors(v, lambda _: next(numbered)) for k, v in kwargs.items()}
    out = call_op(func, _resize(func, new_args, inputs[0], chosen[0]), new_kwargs)
    for reduction, positions in todo:
        for dim in reduction.writes:
            out = _put_back(out, dim, inputs[0].shape[dim], positions)
    return inputs[0].copy_(out) if func._schema.is_mutable else out


def _resize(func: OpOverload, args: tuple[Any, ...], before: Tensor, after: Tensor) -> tuple[Any, ...]:
    """The arguments, with the sizes that layer norm is told as they are now."""
    if [a.name for a in func._schema.arguments[:2]] != ["input", "normalized_shape"]:
        return args
    return args[0], list(after.shape[before.ndim - len(args[1]) :]), *args[2:]


def _put_back(out: Any, dim: int, size: int, positions: Tensor) -> Any:
    first = out[0] if isinstance(out, tuple) else out
    shape = [size if d == dim % first.ndim else n for d, n in enumerate(first.shape)]
    whole = first.narrow(dim, 0, 1).expand(shape).index_copy(dim, positions.to(first.device), first)
    return (whole, *out[1:]) if isinstance(out, tuple) else whole
