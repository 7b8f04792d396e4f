"""Ops that meet position by position, and ops that make tensors."""

from collections.abc import Sequence

from mipp.graph.axes import Planes, Reason, along, varying, without
from mipp.graph.program import Op
from mipp.graph.registry import rule
from mipp.graph.rules.stacks import split_uniform
from mipp.graph.rules.steps import meet, pair, per_channel
from mipp.graph.tracker import Walk


@rule("pointwise", "dropout", "feature_dropout", "alpha_dropout", "detach", "alias")
@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "lift_fresh")
@rule("hardswish", "log_sigmoid", "log_sigmoid_forward", "rrelu_with_noise", "bernoulli", "native_dropout", "complex")
@rule("where", "fill", "copy", "leaky_relu")
def pointwise(op: Op, w: Walk) -> Sequence[Planes]:
    """Also of every op that torch tags as pointwise."""
    return meet(op, w)


@rule("type_as", "to", "_to_copy")
def cast(op: Op, w: Walk) -> Sequence[Planes]:
    """A second tensor gives its type and device only."""
    return [w.of(op.args[0])]


@rule("arange", "linspace", "eye", "rand", "randn", "tensor", "scalar_tensor", "new_empty_strided")
def create(op: Op, w: Walk) -> Sequence[Planes]:
    return [() for _ in op.outputs]


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def uniform(op: Op, w: Walk) -> Sequence[Planes]:
    """Any position of a uniform tensor can go, provided that the code computes the size."""
    shape = w.program.values[op.outputs[0]].shape
    dims = [d for d, size in enumerate(shape) if size > 1]
    planes = tuple(plane for d in dims for plane in w.elastic(op, shape, [d], f"of the fixed size {shape[d]}"))
    split_uniform(op, w, planes)
    return [planes]


@rule("prelu")
def prelu(op: Op, w: Walk) -> Sequence[Planes]:
    x, slopes = op.args[0], op.args[1]
    if max(w.shape(slopes), default=1) == 1:  # one for all positions
        return [w.of(x)]
    return [w.merge(op, [(w.of(x), w.shape(x)), per_channel(w, slopes, len(w.shape(x)))])]


@rule("fake_quantize_per_tensor_affine", "fake_quantize_per_tensor_affine_cachemask")
@rule("_fake_quantize_learnable_per_tensor_affine")
def quantize(op: Op, w: Walk) -> Sequence[Planes]:
    """One scale for all positions."""
    return [w.of(op.args[0]) for _ in op.outputs]


@rule("fake_quantize_per_channel_affine", "fake_quantize_per_channel_affine_cachemask")
@rule("_fake_quantize_learnable_per_channel_affine")
def quantize_channels(op: Op, w: Walk) -> Sequence[Planes]:
    """A scale and a zero point for every position along one axis."""
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    lifted = [per_channel(w, v, ndim, op.arguments["axis"] % ndim) for v in op.args[1:3]]
    planes = w.merge(op, [(w.of(x), w.shape(x)), *lifted])
    return [planes for _ in op.outputs]


@rule("glu")
def glu(op: Op, w: Walk) -> Sequence[Planes]:
    """The halves of a gated linear unit go in pairs."""
    x, dim = op.args[0], op.arguments["dim"] % len(w.shape(op.args[0]))
    plane = along(w.of(x), [dim])
    if plane is None:
        return [w.of(x)]
    half = pair(op, w, plane, dim, 2).narrow(dim, 0, plane.shape[dim] // 2)
    return [(*without(w.of(x), [dim]), *((half,) if varying(half) else ()))]


@rule("masked_fill", "tril", "triu")
def masked_op(op: Op, w: Walk) -> Sequence[Planes]:
    if op.name in ("tril", "triu"):
        reason = Reason(f"{op.name} takes fixed positions", op.name, op.source)
        ndim = len(w.shape(op.args[0]))
        for plane in w.of(op.args[0]):
            w.atoms.hold(plane, [ndim - 2, ndim - 1], reason)
    return meet(op, w)
