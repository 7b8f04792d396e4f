"""Batch and instance norm act channel by channel; layer and group norm take statistics over channels."""

from collections.abc import Sequence

import torch

from mipp.graph.axes import Planes, Reason, along, varying
from mipp.graph.findings import Attribute, WalkDoubt, WalkReduction
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.rules.steps import pair, per_channel
from mipp.graph.tracker import Walk


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "instance_norm")
def batch_norm(op: Op, w: Walk) -> Sequence[Planes]:
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    mixed = Reason(f"{op.name} runs over the axis", op.name, op.source)
    behind = [d for d in range(ndim) if d != 1]
    fresh = bool(op.arguments.get("training")) or not isinstance(op.arguments.get("running_mean"), Ref)
    own = w.rows(x, behind, mixed) if fresh or op.name == "instance_norm" else w.of(x)
    vectors = [op.arguments.get(k) for k in ("weight", "bias", "running_mean", "running_var")]
    lifted = [per_channel(w, v, ndim) for v in vectors if isinstance(v, Ref)]
    planes = w.merge(op, [(own, w.shape(x)), *lifted])
    channels = along(planes, [1])
    if op.name == "instance_norm" and channels is not None and w.counting.get(op.module) == "num_features":
        w.attributes.append(Attribute(op.module, w.counting[op.module], channels.reshape(-1)))
    return [planes, *[() for _ in op.outputs[1:]]]


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(op: Op, w: Walk) -> Sequence[Planes]:
    """Statistics over the last dimensions, of the positions that are kept."""
    x, ndim, shape = op.args[0], len(w.shape(op.args[0])), list(op.arguments["normalized_shape"])
    first = ndim - len(shape)
    vectors = [v for v in (op.arguments.get("weight"), op.arguments.get("bias")) if isinstance(v, Ref)]
    lifted = [(tuple(p.reshape((1,) * first + tuple(p.shape)) for p in w.of(v)), w.shape(v)) for v in vectors]
    planes = w.merge(op, [(w.of(x), w.shape(x)), *lifted])
    for plane in planes:
        own = [d for d in varying(plane) if d >= first]
        if len(own) == 1 == len(varying(plane)):
            line, dim = plane.reshape(-1), own[0]
            more = ((n + 1, dim - first, line) for n in range(len(vectors)))
            w.reductions.append(WalkReduction(op.index, ((0, dim, line), *more), (dim,)))
            if not (
                vectors and w.counting.get(op.module) == "normalized_shape"
            ):  # a module that reads it off its weight
                size = Reason(f"{op.name} over the fixed sizes {shape}", op.name, op.source)
                w.doubts.append(WalkDoubt(op.index, shape[dim - first], line, size))
        elif own:
            w.atoms.hold(plane, own, Reason(f"{op.name} runs over the axis", op.name, op.source))
    return [planes, *[() for _ in op.outputs[1:]]]


@rule("group_norm", "native_group_norm")
def group_norm(op: Op, w: Walk) -> Sequence[Planes]:
    """Whole groups go where there are many of them, and the same position of each where there are few."""
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    groups = op.arguments["num_groups"] if op.name == "group_norm" else op.arguments["group"]
    vectors = [v for v in (op.arguments.get("weight"), op.arguments.get("bias")) if isinstance(v, Ref)]
    planes = w.merge(op, [(w.of(x), w.shape(x)), *(per_channel(w, v, ndim) for v in vectors)])
    w.freeze(
        tuple(p for p in planes if set(varying(p)) - {0, 1}),
        Reason(f"{op.name} meets positions of a fixed size", op.name, op.source),
    )
    plane = along(planes, [1])
    if plane is not None and varying(plane) == (1,):
        _norm_groups(op, w, plane, groups, len(vectors))
    return [planes, *[() for _ in op.outputs[1:]]]


def _norm_groups(op: Op, w: Walk, plane: torch.Tensor, groups: int, vectors: int) -> None:
    line = plane.reshape(-1)
    if groups >= len(line) // groups > 0:
        rows = line.reshape(groups, -1)
        reason = Reason("the number of groups is fixed in the code", op.name, op.source)
        w.atoms.unite_along(rows, [1], reason)
        if w.counting.get(op.module) == "num_groups":
            w.attributes.append(Attribute(op.module, w.counting[op.module], rows[:, 0].clone()))
        else:
            w.doubts.append(WalkDoubt(op.index, groups, rows[:, 0], reason))
    else:
        pair(op, w, plane, 1, groups)
        more = ((n + 1, 0, line) for n in range(vectors))
        w.reductions.append(WalkReduction(op.index, ((0, 1, line), *more), (1,)))


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(op: Op, w: Walk) -> Sequence[Planes]:
    """A direction over its own length, times a length: of all positions but those of one dimension."""
    v, g, dim = op.args[0], op.args[1], op.arguments["dim"]
    planes = w.merge(op, [(w.of(v), w.shape(v)), (w.of(g), w.shape(g))])
    for plane in planes:
        own = varying(plane)
        if own != (dim,) and len(own) == 1:
            w.reductions.append(WalkReduction(op.index, ((0, own[0], plane.reshape(-1)),), own))
    return [planes, *[() for _ in op.outputs[1:]]]
