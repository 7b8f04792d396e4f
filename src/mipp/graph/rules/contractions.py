"""Ops that sum products: what they read through a weight are nodes, what they write through it are others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mipp.graph.axes import FIXED, Planes, Reason, along, varying, without
from mipp.graph.findings import Alignment, Attribute, Term, WalkDoubt, WalkReduction, WalkSite
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.rules.products import Factor, find_line, product
from mipp.graph.tracker import Walk, freeze_all

_ROW_BYTES = 16
"""Rows of the operands of a grouped product are multiples of this."""


@rule("linear")
def linear(op: Op, w: Walk) -> Sequence[Planes]:
    x, weight, bias = op.args[0], op.args[1], op.arguments["bias"]
    return [_linear(op, w, x, weight, bias, reads_axis=1)] if len(w.shape(weight)) == 2 else freeze_all(op, w)


@rule("addmm", "baddbmm")
def addmm(op: Op, w: Walk) -> Sequence[Planes]:
    """A linear layer whose weight is stored as [inputs, outputs]; anything else is a product and a sum."""
    c, a, b = op.args[:3]
    if (
        op.name == "addmm"
        and w.is_weight(b)
        and not w.is_weight(a)
        and op.arguments["beta"] == op.arguments["alpha"] == 1
    ):
        return [_linear(op, w, a, b, c, reads_axis=0)]
    batch = "b" * (op.name == "baddbmm")
    factors = [Factor(1, w.of(a), w.shape(a), batch + "rx"), Factor(2, w.of(b), w.shape(b), batch + "xs")]
    planes = product(op, w, factors, batch + "rs")
    return [w.merge(op, [(planes, w.program.values[op.outputs[0]].shape), (w.of(c), w.shape(c))])]


def _linear(op: Op, w: Walk, x: Ref, weight: Ref, bias: Any, reads_axis: int) -> Planes:
    ndim = len(w.shape(x))
    reads, writes = w.axis(weight, reads_axis), w.axis(weight, 1 - reads_axis)
    _read(op, w, along(w.of(x), [ndim - 1]), ndim - 1, reads)
    _add_bias(op, w, bias, writes)
    lead = tuple(w.axis(x, d) for d in range(ndim - 1))
    _contraction(op, w, WalkSite(op.index, _name(w, weight), _name(w, bias), reads, writes, 1, reads_axis, lead))
    _over_computed(op, w, (x, ndim - 1), (weight, reads_axis), reads)
    w.terms.append(Term(op.index, 1, (*lead, reads, writes)))
    return (*without(w.of(x), [ndim - 1]), *_along(writes, ndim - 1, ndim))


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d", "conv_transpose2d")
@rule("conv_transpose3d")
def convolution(op: Op, w: Walk) -> Sequence[Planes]:
    x, weight, bias, groups = op.args[0], op.args[1], op.arguments["bias"], op.arguments["groups"]
    transposed = op.arguments.get("transposed", op.name.startswith("conv_transpose"))
    if transposed and groups > 1:
        return _transposed_in_groups(op, w)
    kernel = len(w.shape(weight)) - 2
    channel = len(w.shape(x)) - kernel - 1
    reads, writes = w.axis(weight, 0 if transposed else 1), w.axis(weight, 1 if transposed else 0)
    behind = range(channel + 1, len(w.shape(x)))
    planes = w.rows(x, behind, Reason("a convolution slides over the axis", op.name, op.source))
    plane = along(planes, [channel])
    axis = 0 if transposed else 1
    if groups == 1:
        _read(op, w, plane, channel, reads)
        _over_computed(op, w, (x, channel), (weight, axis), reads)
    else:
        _read_grouped(op, w, plane, (x, channel), weight, groups)
    _add_bias(op, w, bias, writes)
    if _is_per_sample(w, plane, weight, groups):
        w.readers.append(reads)
        w.producers.append(writes)
    else:
        names = _name(w, weight), _name(w, bias)
        _contraction(op, w, WalkSite(op.index, *names, reads, writes, groups, axis))
    out = w.program.values[op.outputs[0]].shape
    wide = w.shape(x) if transposed else out
    positions = torch.Size(wide[:channel] + wide[channel + 1 :]).numel() * torch.Size(w.shape(weight)[2:]).numel()
    w.terms.append(Term(op.index, positions, (reads, writes)))
    return [(*without(planes, [channel]), *_along(writes, channel, len(out)))]


def _transposed_in_groups(op: Op, w: Walk) -> Sequence[Planes]:
    """Many groups: whole groups are the nodes. Few: the same position of every group, in inputs and in outputs."""
    x, weight, groups = op.args[0], op.args[1], op.arguments["groups"]
    channel, ndim = len(w.shape(x)) - len(w.shape(weight)) + 1, len(w.shape(x))
    reason = Reason("a grouped convolution reads positions of a fixed size", op.name, op.source)
    planes = w.rows(x, range(channel + 1, ndim), reason)
    plane, rows, inner = along(planes, [channel]), w.axis(weight, 0), w.axis(weight, 1)
    source = rows.reshape(groups, -1)
    _read(op, w, plane, channel, rows)
    if groups >= source.shape[1]:
        w.atoms.unite_along(source, [1], reason)
        _count_groups(op, w, weight, source[:, 0].clone())
        w.atoms.freeze(inner, Reason("only whole groups of a convolution are removed", op.name, op.source))
        writes = source[:, :1].expand(groups, len(inner)).reshape(-1)
    else:
        w.atoms.unite_along(source, [0], reason)
        writes = inner.repeat(groups)
    _add_bias(op, w, op.arguments["bias"], writes)
    names = _name(w, weight), _name(w, op.arguments["bias"])
    reads = source[0] if groups < source.shape[1] else torch.full((source.shape[1],), FIXED)
    _contraction(op, w, WalkSite(op.index, *names, reads, writes, groups, 0))
    positions = torch.Size(w.shape(x)[:channel] + w.shape(x)[channel + 1 :] + w.shape(weight)[2:]).numel()
    w.terms.append(Term(op.index, positions, (rows, inner)))
    return [(*without(planes, [channel]), *_along(writes, channel, ndim))]


def _count_groups(op: Op, w: Walk, weight: Ref, groups: Tensor) -> None:
    """Notes where the number of groups stands: in the module of the weight, or somewhere in the code."""
    own = w.program.values[weight.index].name == f"{op.module}.weight".lstrip(".")
    if op.module in w.counting and own:
        w.attributes.append(Attribute(op.module, "groups", groups))
    else:
        reason = Reason("the number of groups is fixed in the code", op.name, op.source)
        w.doubts.append(WalkDoubt(op.index, len(groups), groups, reason))


def _over_computed(op: Op, w: Walk, x: tuple[Ref, int], weight: tuple[Ref, int], *atoms: Tensor) -> None:
    """A weight that is computed need not be zero where its parameter is: the op runs over the kept positions.

    Args:
        x: What is read, and the dimension that the weight reads.
        weight: The weight, and its input axis.
        atoms: Atoms along the two; given once where they are the same.
    """
    if not _name(w, weight[0]):
        axes = [(op.inputs.index(ref.index), dim) for ref, dim in (x, weight)]
        if len(atoms) == 1:
            w.reductions.append(WalkReduction(op.index, tuple((*axis, atoms[0]) for axis in axes)))
        else:
            w.reductions.extend(WalkReduction(op.index, ((*axis, a),)) for axis, a in zip(axes, atoms, strict=True))


def _read(op: Op, w: Walk, plane: Tensor | None, dim: int, reads: Tensor) -> None:
    """Ties the positions that a weight reads to the positions it reads them from."""
    if plane is None:
        w.atoms.freeze(reads, Reason("reads an input of the model, or positions of a fixed size", op.name, op.source))
    else:
        shape = [-1 if d == dim else 1 for d in range(plane.ndim)]
        w.atoms.unite(plane, reads.reshape(shape), Reason("reads positions of a fixed size", op.name, op.source))


def _is_per_sample(w: Walk, plane: Tensor | None, weight: Ref, groups: int) -> bool:
    """True if the groups of a convolution are samples, each with a weight computed for it: all read the same nodes."""
    if groups == 1 or plane is None or _name(w, weight):
        return False
    rows = plane.reshape(groups, -1)
    return bool((rows == rows[:1]).all())


def _read_grouped(op: Op, w: Walk, plane: Tensor | None, x: tuple[Ref, int], weight: Ref, groups: int) -> None:
    reads, writes = w.axis(weight, 1), w.axis(weight, 0).reshape(groups, -1)
    each = w.shape(weight)[1]
    mixed = Reason("a grouped convolution reads positions of a fixed size", op.name, op.source)
    if plane is None or len(varying(plane)) > 1:
        w.freeze((reads, writes) if plane is None else (reads, writes, plane), mixed)
        return
    source = plane.reshape(groups, each)
    if groups < each or _is_per_sample(w, plane, weight, groups):  # the same position of every group is the node
        w.atoms.unite_along(writes, [0], mixed)
        w.atoms.unite(source, reads.reshape(1, -1), Reason("reads positions of a fixed size", op.name, op.source))
        if not _is_per_sample(w, plane, weight, groups):
            _over_computed(op, w, x, (weight, 1), source.reshape(-1), reads)
        return
    w.atoms.unite_along(source, [1], mixed)  # whole groups are the nodes
    w.atoms.unite_along(writes, [1], mixed)
    w.atoms.unite(source[:, :1], writes[:, :1], Reason("reads positions of a fixed size", op.name, op.source))
    _count_groups(op, w, weight, source[:, 0].clone())
    w.atoms.freeze(reads, Reason("only whole groups of a convolution are removed", op.name, op.source))


def _add_bias(op: Op, w: Walk, bias: Any, writes: Tensor) -> None:
    if isinstance(bias, Ref):
        w.atoms.unite(w.axis(bias, -1), writes, Reason("bias of a fixed size", op.name, op.source))


def _name(w: Walk, ref: Any) -> str:
    value = w.program.values[ref.index] if isinstance(ref, Ref) else None
    return value.name if value is not None and value.origin == "parameter" else ""


def _contraction(op: Op, w: Walk, found: WalkSite) -> None:
    w.sites.append(found)
    w.readers.append(found.reads)
    w.producers.append(found.writes)


def _along(atoms: Tensor, dim: int, ndim: int) -> Planes:
    return (atoms.reshape([-1 if d == dim else 1 for d in range(ndim)]),) if len(atoms) > 1 else ()


@rule("embedding")
def embedding(op: Op, w: Walk) -> Sequence[Planes]:
    weight, ndim = op.args[0], len(w.program.values[op.outputs[0]].shape)
    w.atoms.freeze(w.axis(weight, 0), Reason("rows are looked up by index", op.name, op.source))
    w.freeze(w.of(op.args[1]), Reason("chooses rows", op.name, op.source))
    features = w.axis(weight, 1)
    w.producers.append(features)
    return [_along(features, ndim - 1, ndim)]


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(op: Op, w: Walk) -> Sequence[Planes]:
    """A product of two activations, or of one with a weight that is stored as [inputs, outputs]."""
    a, b = op.args[0], op.args[1]
    ndim_a, ndim_b = len(w.shape(a)), len(w.shape(b))
    if ndim_b == 2 and w.is_weight(b) and not w.is_weight(a):
        return [_linear(op, w, a, b, None, reads_axis=0)]
    batch = "abcdefgh"[: max(ndim_a, ndim_b, 2) - 2]
    left = "x" if ndim_a == 1 else batch[len(batch) - ndim_a + 2 :] + "rx"
    right = "x" if ndim_b == 1 else batch[len(batch) - ndim_b + 2 :] + "xs"
    out = batch + ("r" if ndim_a > 1 else "") + ("s" if ndim_b > 1 else "")
    factors = [Factor(0, w.of(a), w.shape(a), left), Factor(1, w.of(b), w.shape(b), right)]
    return [product(op, w, factors, out)]


@rule("inner")
def inner(op: Op, w: Walk) -> Sequence[Planes]:
    """A product over the last axes of both."""
    a, b = op.args[:2]
    if len(w.shape(b)) == 2 and w.is_weight(b) and not w.is_weight(a):
        return [_linear(op, w, a, b, None, reads_axis=1)]
    left, right = "abcdefgh"[: len(w.shape(a)) - 1], "ijklmnop"[: len(w.shape(b)) - 1]
    factors = [Factor(0, w.of(a), w.shape(a), f"{left}x"), Factor(1, w.of(b), w.shape(b), f"{right}x")]
    return [product(op, w, factors, left + right)]


@rule("_grouped_mm")
def grouped_mm(op: Op, w: Walk) -> Sequence[Planes]:
    """Rows sorted by expert, each times the matrix of its expert; the kernel takes rows of whole blocks of bytes."""
    x, weight = op.args[:2]
    if (len(w.shape(x)), len(w.shape(weight))) != (2, 3):
        return freeze_all(op, w)
    planes = w.rows(weight, [0], Reason("experts are chosen by index", op.name, op.source))
    factors = [Factor(0, w.of(x), w.shape(x), "tx"), Factor(1, planes, (1, *w.shape(weight)[1:]), "exs")]
    multiple = max(_ROW_BYTES // w.program.values[weight.index].dtype.itemsize, 1)
    w.alignments += [Alignment(op.index, find_line(factors, letter, 1), multiple) for letter in "xs"]
    return [product(op, w, factors, "ts")]


@rule("einsum")
def einsum(op: Op, w: Walk) -> Sequence[Planes]:
    refs = op.args[1]
    terms, out = _parse_equation(op.args[0].replace(" ", ""), [len(w.shape(r)) for r in refs])
    if any(len(set(term)) < len(term) for term in (*terms, out)):
        return freeze_all(op, w)
    factors = [Factor(n, w.of(r), w.shape(r), t) for n, (r, t) in enumerate(zip(refs, terms, strict=True))]
    return [product(op, w, factors, out)]


def _parse_equation(equation: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """The terms and the result of an equation, with a letter for every dimension behind "..." and behind no arrow."""
    inputs, arrow, out = equation.partition("->")
    given = inputs.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    most = max((n - len(t) + 3 for t, n in zip(given, ndims, strict=True) if "..." in t), default=0)
    terms = [
        t.replace("...", "".join(spare[most - (n - len(t) + 3) : most])) for t, n in zip(given, ndims, strict=True)
    ]
    if not arrow:
        letters = inputs.replace(",", "").replace(".", "")
        out = "..." * (most > 0) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return terms, out.replace("...", "".join(spare[:most]))
