"""One rule per ATen op: which positions of its operands and results are one node.

A rule takes the op and the walk and returns the planes of each result. An op without a rule freezes what it touches.
To add one, write a function under `@rule("name", ...)`: see CONTRIBUTING.md.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from mipp.graph.axes import FIXED, Atoms, Planes, Reason, along, merged, moved, varying, without
from mipp.graph.trace import Op, Program, Ref

Rule = Callable[[Op, "Walk"], Sequence[Planes]]
_RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Contraction:
    """An op that reads nodes through a weight: linear or convolution.

    Attributes:
        op: Index of the op.
        weight: Name of the weight if it is a parameter itself, else "" (computed weights are cut but not refitted).
        reads: Atom of every position of the weight's input axis (axis 1), shape [inputs per group].
        writes: Atom of every position of the weight's output axis, shape [outputs].
        groups: Number of convolution groups.
    """

    op: int
    weight: str
    bias: str
    reads: Tensor
    writes: Tensor
    groups: int = 1


@dataclass(frozen=True)
class Term:
    """MACs of one op: coefficient times the number of kept positions of each axis (atoms, `FIXED` where constant)."""

    op: int
    coefficient: int
    axes: tuple[Tensor, ...]


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module that counts kept nodes, such as `groups` of a depthwise convolution."""

    module: str
    name: str
    atoms: Tensor


@dataclass(frozen=True)
class Doubt:
    """Atoms whose removal is right only if the code computes a size instead of fixing it; a trial cut decides."""

    atoms: Tensor
    reason: Reason


@dataclass
class Walk:
    """What the rules have found while walking through a program.

    `convolutions` are the paths of the standard convolution modules, whose `groups` surgery can change.
    """

    program: Program
    convolutions: Collection[str] = ()
    atoms: Atoms = field(default_factory=Atoms)
    planes: dict[int, Planes] = field(default_factory=dict)
    slots: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    contractions: list[Contraction] = field(default_factory=list)
    producers: list[Tensor] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    splits: list[tuple[Tensor, int, int]] = field(default_factory=list)

    def shape(self, ref: Ref) -> tuple[int, ...]:
        return self.program.values[ref.index].shape

    def of(self, ref: Ref) -> Planes:
        """Planes of a value; a parameter or buffer gets fresh atoms for each axis when first met."""
        if ref.index not in self.planes:
            value = self.program.values[ref.index]
            if value.origin in ("parameter", "buffer"):
                self.planes[ref.index] = tuple(
                    self._slot(value.name, axis, size, len(value.shape))
                    for axis, size in enumerate(value.shape)
                    if size > 1
                )
            else:
                self.planes[ref.index] = ()
        return self.planes[ref.index]

    def axis(self, ref: Ref, dim: int) -> Tensor:
        """Atom of every position along one dimension, shape [size]; `FIXED` where nothing is known."""
        dim %= len(self.shape(ref))
        plane = along(self.of(ref), [dim])
        if plane is None or varying(plane) != (dim,):
            return torch.full((self.shape(ref)[dim],), FIXED)
        return plane.reshape(-1)

    def freeze(self, planes: Planes, reason: Reason) -> None:
        for plane in planes:
            self.atoms.freeze(plane, reason)

    def _slot(self, name: str, axis: int, size: int, ndim: int) -> Tensor:
        if (name, axis) not in self.slots:
            self.slots[name, axis] = self.atoms.fresh(size)
        return self.slots[name, axis].reshape([size if d == axis else 1 for d in range(ndim)])


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for ATen ops by name, without overloads."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def has_rule(func: OpOverload) -> bool:
    """Whether an op is to be kept whole while tracing."""
    return func.overloadpacket.__name__.rstrip("_") in _RULES or torch.Tag.pointwise in func.tags


def walk(program: Program, convolutions: Collection[str] = ()) -> Walk:
    """Applies the rules to a program, op by op."""
    found = Walk(program, convolutions)
    for op in program.ops:
        apply_rule = _RULES.get(op.name.rstrip("_"))
        if apply_rule is None:
            apply_rule = pointwise if torch.Tag.pointwise in op.func.tags else unknown
        results = apply_rule(op, found)
        for index, planes in zip(op.outputs, results, strict=True):
            found.planes[index] = planes
    for index in program.outputs:
        found.freeze(found.of(Ref(index)), Reason("is an output of the model"))
    return found


def unknown(op: Op, w: Walk) -> Sequence[Planes]:
    """Freezes every axis that an op without a rule touches."""
    reason = Reason(f"no rule for the op {op.name}", op.name, op.source)
    for index in op.inputs:
        w.freeze(w.of(Ref(index)), reason)
    return [() for _ in op.outputs]


@rule("dropout", "feature_dropout", "alpha_dropout", "to", "_to_copy", "contiguous", "clone", "detach", "alias")
@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "type_as", "lift_fresh")
def pointwise(op: Op, w: Walk) -> Sequence[Planes]:
    operands = [(w.of(Ref(i)), w.program.values[i].shape) for i in op.inputs]
    reason = Reason(f"{op.name} meets positions of a fixed size", op.name, op.source)
    planes = merged(operands, w.atoms, reason)
    return [planes for _ in op.outputs]


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor", "tensor")
@rule("arange", "linspace", "eye", "rand", "randn")
def created(op: Op, w: Walk) -> Sequence[Planes]:
    return [() for _ in op.outputs]


# --- ops that move data -----------------------------------------------------------------------------------------------


@rule("permute", "transpose", "t", "movedim", "swapaxes", "unsqueeze", "squeeze", "expand_as", "flatten")
@rule("numpy_T", "matrix_H", "mT", "adjoint", "moveaxis", "swapdims", "broadcast_to")
def move(op: Op, w: Walk) -> Sequence[Planes]:
    x = op.args[0]
    others = [a.index for a in op.args[1:] if isinstance(a, Ref)]
    if others:  # expand_as: only the shape of the second tensor matters
        target = w.program.values[others[0]].shape
        return _move(op, w, x, lambda t: t.expand(target))
    return _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))


@rule("view", "reshape", "_unsafe_view", "unflatten", "expand", "view_as", "reshape_as")
def reshape(op: Op, w: Walk) -> Sequence[Planes]:
    x, shape = op.args[0], w.program.values[op.outputs[0]].shape
    results = _move(op, w, x, (lambda t: t.expand(shape)) if op.name == "expand" else (lambda t: t.reshape(shape)))
    sizes = op.arguments.get("size") or op.arguments.get("shape") or op.arguments.get("sizes") or ()
    start = op.arguments["dim"] % len(w.shape(x)) if op.name == "unflatten" else 0
    reason = Reason(f"{op.name} to the fixed sizes {list(sizes)}", op.name, op.source)
    for plane in results[0]:
        dims = varying(plane)
        if len(dims) == 2:
            w.splits.append((plane, *_split_order(dims, sizes, start)))
        elif len(dims) > 2:
            w.freeze((plane,), reason)
        if any(0 <= d - start < len(sizes) and sizes[d - start] != -1 for d in dims):
            w.doubts.append(Doubt(plane, reason))
    return results


def _split_order(dims: tuple[int, ...], sizes: Sequence[int], start: int) -> tuple[int, int]:
    """Which dimension to unite along first where a tracked axis is split in two: one of fixed size, if told so."""
    first, second = dims
    inferred = [d for d in dims if 0 <= d - start < len(sizes) and sizes[d - start] == -1]
    return (second, first) if inferred == [first] else (first, second)


@rule("slice", "narrow", "flip", "roll", "select", "unbind", "split", "split_with_sizes", "tensor_split", "repeat")
@rule("unsafe_split", "unsafe_split_with_sizes", "index_select", "hsplit", "vsplit", "tile", "repeat_interleave")
def take(op: Op, w: Walk) -> Sequence[Planes]:
    """Passes the planes that the op leaves whole, freezes those it cuts at positions fixed in the code."""
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    reason = Reason(f"{op.name} takes fixed positions", op.name, op.source)
    dims = _dims_touched(op, ndim)
    touched = [p for p in w.of(x) if dims is None or set(varying(p)) & set(dims)]
    if op.name == "slice" and _takes_all(op, w.shape(x)):
        touched = []
    for plane in touched:
        rest = set(varying(plane)) - set(dims or ())
        if op.name in ("select", "unbind") and rest:
            w.atoms.unite_along(plane, dims or (), reason)
        else:
            w.freeze((plane,), reason)
    if len(op.inputs) > 1:  # positions given by a tensor
        return [without(w.of(x), dims or range(ndim)) for _ in op.outputs]
    results = _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))
    frozen = [id(p) for p in touched if not set(varying(p)) - set(dims or ())]
    return [() for _ in op.outputs] if len(frozen) == len(w.of(x)) else results


def _dims_touched(op: Op, ndim: int) -> list[int] | None:
    if op.name in ("repeat", "tile", "hsplit", "vsplit", "repeat_interleave"):
        return None
    dims = op.arguments.get("dims", op.arguments.get("dim", 0))
    dims = [dims] if isinstance(dims, int) else list(dims or range(ndim))
    return [d % ndim for d in dims]


def _takes_all(op: Op, shape: tuple[int, ...]) -> bool:
    a = op.arguments
    size = shape[a["dim"]]
    return (a["start"] or 0) == 0 and (a["end"] is None or a["end"] >= size) and a["step"] == 1


@rule("chunk", "unsafe_chunk")
def chunk(op: Op, w: Walk) -> Sequence[Planes]:
    """Chunks stay equal when the same position goes from each of them."""
    x, parts, dim = op.args[0], op.arguments["chunks"], op.arguments["dim"] % len(w.shape(op.args[0]))
    plane = along(w.of(x), [dim])
    if plane is not None:
        if plane.shape[dim] % parts:
            w.freeze((plane,), Reason(f"chunk into {parts} unequal parts", op.name, op.source))
        else:
            fixed = Reason("chunk pairs positions with ones of a fixed size", op.name, op.source)
            w.atoms.unite_along(plane.unflatten(dim, (parts, -1)), [dim], fixed)
    return _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))


@rule("constant_pad_nd", "pad")
def pad(op: Op, w: Walk) -> Sequence[Planes]:
    x, amounts = op.args[0], list(op.arguments["pad"])
    if op.arguments.get("mode", "constant") == "constant" and min(amounts, default=0) >= 0:
        return _move(op, w, x, lambda t: torch.constant_pad_nd(t, amounts, FIXED))
    padded = [len(w.shape(x)) - 1 - i for i in range(len(amounts) // 2)]
    w.freeze(tuple(p for p in w.of(x) if set(varying(p)) & set(padded)), Reason("padded", op.name, op.source))
    return [without(w.of(x), padded)]


@rule("cat", "concat", "concatenate")
def cat(op: Op, w: Walk) -> Sequence[Planes]:
    refs = [r for r in op.args[0] if w.shape(r) != (0,)]
    shapes, ndim = [w.shape(r) for r in refs], len(w.shape(refs[0]))
    dim = op.arguments["dim"] % ndim
    reason = Reason("cat meets positions of a fixed size", op.name, op.source)
    flat = [(without(w.of(r), [dim]), tuple(1 if d == dim else n for d, n in enumerate(w.shape(r)))) for r in refs]
    joined = [along(w.of(r), [dim]) for r in refs]
    if all(p is None for p in joined):
        return [merged(flat, w.atoms, reason)]
    pieces = [
        torch.full([s[d] if d == dim else 1 for d in range(ndim)], FIXED) if p is None else p
        for p, s in zip(joined, shapes, strict=True)
    ]
    common = torch.broadcast_shapes(*(p.narrow(dim, 0, 1).shape for p in pieces))
    pieces = [p.expand([p.shape[d] if d == dim else n for d, n in enumerate(common)]) for p in pieces]
    return [(torch.cat(pieces, dim), *merged(flat, w.atoms, reason))]


@rule("stack")
def stack(op: Op, w: Walk) -> Sequence[Planes]:
    operands = [(w.of(r), w.shape(r)) for r in op.args[0]]
    planes = merged(operands, w.atoms, Reason("stack meets positions of a fixed size", op.name, op.source))
    dim = op.arguments["dim"] % (len(operands[0][1]) + 1)
    return [tuple(p.unsqueeze(dim) for p in planes)]


def _move(op: Op, w: Walk, x: Ref, function: Callable[[Tensor], Any]) -> list[Planes]:
    results: list[list[Tensor]] = [[] for _ in op.outputs]
    for plane in w.of(x):
        for planes, out in zip(results, moved(plane, w.shape(x), function), strict=True):
            planes.append(out)
    return [_untangled(planes, w, Reason(f"{op.name} merges two axes", op.name, op.source)) for planes in results]


def _untangled(planes: list[Tensor], w: Walk, reason: Reason) -> Planes:
    """Drops planes that no longer vary and freezes those that now share a dimension."""
    kept: list[Tensor] = []
    for plane in planes:
        clash = [p for p in kept if set(varying(p)) & set(varying(plane))]
        if not varying(plane):
            w.atoms.freeze(plane, Reason("one position is taken out by the code", reason.op, reason.source))
        elif clash:
            w.freeze((plane, *clash), reason)
            kept = [p for p in kept if all(p is not c for c in clash)]
        else:
            kept.append(plane)
    return tuple(kept)


# --- ops that reduce, pool or normalise -------------------------------------------------------------------------------


@rule("mean", "sum", "amax", "amin", "prod", "std", "var", "logsumexp", "argmax", "argmin", "norm", "max", "min")
@rule("any", "all", "linalg_vector_norm")
def reduce(op: Op, w: Walk) -> Sequence[Planes]:
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    if len(op.inputs) > 1:
        return pointwise(op, w)
    dims = op.arguments.get("dim")
    dims = list(range(ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    dims = [d % ndim for d in dims]
    gone = tuple(p for p in w.of(x) if set(varying(p)) & set(dims))
    w.freeze(gone, Reason(f"{op.name} runs over the axis", op.name, op.source))
    planes = without(w.of(x), dims)
    for dim in sorted(dims, reverse=True) if not op.arguments.get("keepdim") else []:
        planes = tuple(p.squeeze(dim) for p in planes)
    return [planes for _ in op.outputs]


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "topk")
def over_axis(op: Op, w: Walk) -> Sequence[Planes]:
    x, dim = op.args[0], op.arguments["dim"] % max(len(w.shape(op.args[0])), 1)
    gone = tuple(p for p in w.of(x) if dim in varying(p))
    w.freeze(gone, Reason(f"{op.name} runs over the axis", op.name, op.source))
    return [without(w.of(x), [dim]) for _ in op.outputs]


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "upsample_nearest1d")
@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "lp_pool2d")
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest2d", "upsample_nearest3d")
@rule("upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "grid_sampler")
@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices")
def spatial(op: Op, w: Walk) -> Sequence[Planes]:
    """Ops that work on each channel by itself and mix the dimensions behind it."""
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    pooled = next((int(c) for c in op.name if c.isdigit()), ndim - 2)
    behind = list(range(ndim - pooled, ndim))
    mixed = tuple(p for p in w.of(x) if set(varying(p)) & set(behind))
    others = tuple(p for index in op.inputs[1:] for p in w.of(Ref(index)))
    w.freeze((*mixed, *others), Reason(f"{op.name} mixes the axis", op.name, op.source))
    return [without(w.of(x), behind) for _ in op.outputs]


@rule("prelu")
def prelu(op: Op, w: Walk) -> Sequence[Planes]:
    x, weight = op.args[0], op.args[1]
    ndim = len(w.shape(x))
    reason = Reason("prelu meets positions of a fixed size", op.name, op.source)
    return [merged([(w.of(x), w.shape(x)), _per_channel(w, weight, ndim)], w.atoms, reason)]


def _per_channel(w: Walk, vector: Ref, ndim: int) -> tuple[Planes, tuple[int, ...]]:
    """Planes and shape of a vector as it meets dimension 1 of a tensor."""
    planes = tuple(p.reshape([-1 if d == 1 else 1 for d in range(ndim)]) for p in w.of(vector))
    return planes, (1, w.shape(vector)[0], *(1,) * (ndim - 2))


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "instance_norm")
def batch_norm(op: Op, w: Walk) -> Sequence[Planes]:
    x, ndim = op.args[0], len(w.shape(op.args[0]))
    reason = Reason(f"{op.name} meets positions of a fixed size", op.name, op.source)
    behind = tuple(p for p in w.of(x) if set(varying(p)) & set(range(2, ndim))) if op.name == "instance_norm" else ()
    w.freeze(behind, Reason("instance_norm runs over the axis", op.name, op.source))
    vectors = [op.arguments.get(k) for k in ("weight", "bias", "running_mean", "running_var")]
    lifted = [_per_channel(w, v, ndim) for v in vectors if isinstance(v, Ref)]
    planes = merged([(w.of(x), w.shape(x)), *lifted], w.atoms, reason)
    return [planes, *[() for _ in op.outputs[1:]]]


# --- ops that read nodes through a weight -----------------------------------------------------------------------------


@rule("linear")
def linear(op: Op, w: Walk) -> Sequence[Planes]:
    x, weight, bias = op.args[0], op.args[1], op.arguments["bias"]
    ndim, reads, writes = len(w.shape(x)), w.axis(weight, 1), w.axis(weight, 0)
    _read(op, w, along(w.of(x), [ndim - 1]), ndim - 1, reads)
    _add_bias(op, w, bias, writes)
    _contraction(op, w, weight, bias, reads, writes, 1)
    lead = [w.axis(x, d) for d in range(ndim - 1)]
    w.terms.append(Term(op.index, 1, (*lead, reads, writes)))
    return [(*without(w.of(x), [ndim - 1]), *_placed(writes, ndim - 1, ndim))]


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
def convolution(op: Op, w: Walk) -> Sequence[Planes]:
    x, weight, bias, groups = op.args[0], op.args[1], op.arguments["bias"], op.arguments["groups"]
    if op.arguments.get("transposed"):
        return unknown(op, w)
    ndim = len(w.shape(weight))
    channel = len(w.shape(x)) - ndim + 1
    reads, writes = w.axis(weight, 1), w.axis(weight, 0)
    behind = range(channel + 1, len(w.shape(x)))
    mixed = tuple(p for p in w.of(x) if set(varying(p)) & set(behind))
    w.freeze(mixed, Reason("a convolution slides over the axis", op.name, op.source))
    plane = along(w.of(x), [channel])
    if groups == 1:
        _read(op, w, plane, channel, reads)
    else:
        _read_grouped(op, w, plane, weight, groups)
    _add_bias(op, w, bias, writes)
    _contraction(op, w, weight, bias, reads, writes, groups)
    out = w.program.values[op.outputs[0]].shape
    positions = torch.Size(out[:1] + out[channel + 1 :]).numel() * torch.Size(w.shape(weight)[2:]).numel()
    w.terms.append(Term(op.index, positions, (reads, writes)))
    return [(*without(w.of(x), [channel, *behind]), *_placed(writes, channel, len(out)))]


def _read(op: Op, w: Walk, plane: Tensor | None, dim: int, reads: Tensor) -> None:
    """Ties the positions that a weight reads to the positions it reads them from."""
    if plane is None:
        w.atoms.freeze(reads, Reason("reads an input of the model, or positions of a fixed size", op.name, op.source))
    else:
        shape = [-1 if d == dim else 1 for d in range(plane.ndim)]
        w.atoms.unite(plane, reads.reshape(shape), Reason("reads positions of a fixed size", op.name, op.source))


def _read_grouped(op: Op, w: Walk, plane: Tensor | None, weight: Ref, groups: int) -> None:
    reads, writes = w.axis(weight, 1), w.axis(weight, 0).reshape(groups, -1)
    each = w.shape(weight)[1]
    if plane is None or len(varying(plane)) > 1:
        fixed = Reason("a grouped convolution reads positions of a fixed size", op.name, op.source)
        w.freeze((reads, writes) if plane is None else (reads, writes, plane), fixed)
        return
    source = plane.reshape(groups, each)
    mixed = Reason("a grouped convolution reads positions of a fixed size", op.name, op.source)
    if groups >= each:  # whole groups are the nodes
        module = op.module
        own = w.program.values[weight.index].name == f"{module}.weight".lstrip(".")
        if module not in w.convolutions or not own:
            literal = Reason("the number of groups is fixed in the code", op.name, op.source)
            w.freeze((source, writes, reads), literal)
            return
        w.atoms.unite_along(source, [1], mixed)
        w.atoms.unite_along(writes, [1], mixed)
        w.atoms.unite(source[:, :1], writes[:, :1], Reason("reads positions of a fixed size", op.name, op.source))
        w.attributes.append(Attribute(module, "groups", source[:, 0].clone()))
        w.atoms.freeze(reads, Reason("only whole groups of a convolution are removed", op.name, op.source))
    else:  # the same position of every group is the node
        w.atoms.unite_along(writes, [0], mixed)
        w.atoms.unite(source, reads.reshape(1, -1), Reason("reads positions of a fixed size", op.name, op.source))


def _add_bias(op: Op, w: Walk, bias: Any, writes: Tensor) -> None:
    if isinstance(bias, Ref):
        w.atoms.unite(w.axis(bias, 0), writes, Reason("bias of a fixed size", op.name, op.source))


def _contraction(op: Op, w: Walk, weight: Ref, bias: Any, reads: Tensor, writes: Tensor, groups: int) -> None:
    values = w.program.values
    names = [
        values[r.index].name if isinstance(r, Ref) and values[r.index].origin == "parameter" else ""
        for r in (weight, bias)
    ]
    w.contractions.append(Contraction(op.index, names[0], names[1], reads, writes, groups))
    w.producers.append(writes)


def _placed(atoms: Tensor, dim: int, ndim: int) -> Planes:
    return (atoms.reshape([-1 if d == dim else 1 for d in range(ndim)]),) if len(atoms) > 1 else ()


@rule("embedding")
def embedding(op: Op, w: Walk) -> Sequence[Planes]:
    weight, ndim = op.args[0], len(w.program.values[op.outputs[0]].shape)
    w.atoms.freeze(w.axis(weight, 0), Reason("rows are looked up by index", op.name, op.source))
    features = w.axis(weight, 1)
    w.producers.append(features)
    return [_placed(features, ndim - 1, ndim)]


@rule("matmul", "mm", "bmm")
def matmul(op: Op, w: Walk) -> Sequence[Planes]:
    """Products of two activations: what they sum over is frozen unless both sides know it."""
    a, b = op.args[0], op.args[1]
    ndim_a, ndim_b = len(w.shape(a)), len(w.shape(b))
    if ndim_a < 2 or ndim_b < 2 or ndim_a != ndim_b:
        return unknown(op, w)
    reason = Reason(f"{op.name} sums over the axis", op.name, op.source)
    for ref, dim in ((a, ndim_a - 1), (b, ndim_b - 2)):
        w.freeze(tuple(p for p in w.of(ref) if dim in varying(p)), reason)
    left, right = without(w.of(a), [ndim_a - 1]), without(w.of(b), [ndim_b - 2])
    shape_a, shape_b = (*w.shape(a)[:-1], 1), (*w.shape(b)[:-2], 1, w.shape(b)[-1])
    w.terms.append(Term(op.index, w.shape(a)[-1], (*(w.axis(a, d) for d in range(ndim_a - 1)), w.axis(b, -1))))
    return [merged([(left, shape_a), (right, shape_b)], w.atoms, reason)]
