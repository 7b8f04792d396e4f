"""Ops that sum, pool, or take statistics over an axis.

Where the axis can be cut, the op runs over the positions that are kept, in the cut model as in the masked one.
"""

from collections.abc import Sequence

from torch import Tensor

from mipp.graph.axes import Planes, Reason, varying, without
from mipp.graph.findings import WalkReduction
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.rules.steps import meet
from mipp.graph.tracker import Walk


@rule("mean", "sum", "amax", "amin", "prod", "std", "var", "logsumexp", "norm", "any", "all", "linalg_vector_norm")
@rule("argmax", "argmin", "max", "min", "median", "mode", "kthvalue")
def reduce(op: Op, w: Walk) -> Sequence[Planes]:
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    if len(op.inputs) > 1:  # of two tensors, position by position
        return meet(op, w)
    dims = op.arguments.get("dim")
    dims = list(range(ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    dims = [d % max(ndim, 1) for d in dims if ndim]
    if op.name in ("argmax", "argmin", "max", "min", "median", "mode", "kthvalue"):
        for plane in w.of(x):
            w.atoms.hold(plane, dims, Reason(f"{op.name} gives positions on the axis", op.name, op.source))
    planes = over(op, w, dims)
    for dim in sorted(dims, reverse=True) if not op.arguments.get("keepdim") else []:
        planes = tuple(p.squeeze(dim) for p in planes)
    return [planes for _ in op.outputs]


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp")
def over_axis(op: Op, w: Walk) -> Sequence[Planes]:
    x, dim = op.args[0], op.arguments["dim"] % max(len(w.shape(op.args[0])), 1)
    over(op, w, [dim], writes=(dim,))
    return [w.of(x) for _ in op.outputs]


def over(op: Op, w: Walk, dims: Sequence[int], writes: tuple[int, ...] = ()) -> Planes:
    """Notes that an op runs over `dims` of its first argument; returns the planes that vary elsewhere.

    Args:
        writes: Dimensions of the result that keep the axis.
    """
    reason = Reason(f"{op.name} runs over the axis", op.name, op.source)
    rows: list[Tensor] = []
    for plane in w.of(op.args[0]):
        own = [d for d in varying(plane) if d in dims]
        if own and len(varying(plane)) == 1:
            w.reductions.append(WalkReduction(op.index, ((0, own[0], plane.reshape(-1)),), writes))
        elif own:
            w.atoms.hold(plane, own, reason)
            for d in own:
                plane = plane.narrow(d, 0, 1)
        rows.append(plane)
    return without(tuple(p for p in rows if varying(p)), dims)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "upsample_nearest1d")
@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest2d", "upsample_nearest3d")
@rule("upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "grid_sampler")
@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices")
def spatial(op: Op, w: Walk) -> Sequence[Planes]:
    """Ops that work on each channel by itself and mix the dimensions behind it."""
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    pooled = next((int(c) for c in op.name if c.isdigit()), ndim - 2)
    behind = list(range(ndim - pooled, ndim))
    reason = Reason(f"{op.name} mixes the axis", op.name, op.source)
    w.freeze(tuple(p for index in op.inputs[1:] for p in w.of(Ref(index))), reason)
    planes = w.rows(x, behind, reason)
    return [planes for _ in op.outputs]
