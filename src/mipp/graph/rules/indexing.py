"""Ops that take positions, or put them in places, by indices."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from mipp.graph.axes import Planes, Reason, along, varying, without
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.rules.rows import doubt_ends, span, takes_rows
from mipp.graph.rules.steps import fixed_rows, hold
from mipp.graph.tracker import Walk

_SAME = ("lift_fresh", "detach", "alias")


@rule("index_select", "index_fill", "sort", "topk", "argsort", "diff", "masked_select", "segment_reduce")
def take(op: Op, w: Walk) -> Sequence[Planes]:
    """Passes the planes that the op leaves whole; what it rearranges keeps its length."""
    x = op.args[0]
    dim = op.arguments.get("dim", op.arguments.get("axis"))
    for other in op.inputs[1:]:
        w.freeze(w.of(Ref(other)), Reason(f"{op.name} puts it in places", op.name, op.source))
    return hold(op, w, x, [dim] if isinstance(dim, int) else range(len(w.shape(x))))


@rule("gather", "take_along_dim", "scatter", "scatter_add", "scatter_reduce")
def place(op: Op, w: Walk) -> Sequence[Planes]:
    """Moves positions along one dimension; in the others they meet, those of the indices and the values too."""
    dim, shapes = op.arguments["dim"], [w.program.values[i].shape for i in op.inputs]
    ndim = max(len(shape) for shape in shapes)
    if dim is None or len(shapes[0]) < ndim or not ndim:
        return hold(op, w, op.args[0], range(len(shapes[0])))
    aligned = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
    sizes = [{shape[d] for shape in aligned} - ({1} if op.name == "take_along_dim" else set()) for d in range(ndim)]
    fixed = {d for d in range(ndim) if len(sizes[d]) > 1} | {dim % ndim}
    operands = [
        (fixed_rows(op, w, Ref(i), sorted(fixed)), tuple(1 if d in fixed else n for d, n in enumerate(shape)))
        for i, shape in zip(op.inputs, aligned, strict=True)
    ]
    return [w.merge(op, operands)]


@rule("index")
def index(op: Op, w: Walk) -> Sequence[Planes]:
    """Positions given by tensors: the dimensions that are indexed keep their length."""
    return [_index_planes(op, w, len(w.program.values[op.outputs[0]].shape))[1]]


@rule("index_put", "_index_put_impl")
def index_put(op: Op, w: Walk) -> Sequence[Planes]:
    """Values that are put into places have the nodes of those they replace."""
    values = op.args[2]
    if not w.of(values) and prod(w.shape(values)) == 1 and (mask := _only_mask(op, w)) is not None:
        start = next(place for place, given in enumerate(op.args[1]) if given is not None)
        x, ndim = op.args[0], len(w.shape(op.args[0]))
        around = (1,) * start, (1,) * (ndim - start - len(w.shape(mask)))
        shape = (*around[0], *w.shape(mask), *around[1])
        planes = tuple(p.reshape((*around[0], *p.shape, *around[1])) for p in w.of(mask))
        return [w.merge(op, [(w.of(x), w.shape(x)), (planes, shape)])]
    kept, found = _index_planes(op, w, len(w.shape(values)))
    shape = np.broadcast_shapes(w.shape(values), *(p.shape for p in found))
    w.merge(op, [(found, shape), (w.of(values), w.shape(values))])
    return [kept]


def _only_mask(op: Op, w: Walk) -> Ref | None:
    """The mask, where an op takes nothing else: one number is put where it is true, as `masked_fill` does."""
    given: list[Ref] = [ref for ref in op.args[1] if ref is not None]
    return given[0] if len(given) == 1 and w.program.values[given[0].index].dtype == torch.bool else None


def _index_planes(op: Op, w: Walk, ndim: int) -> tuple[Planes, Planes]:
    """Planes of the first argument with the indexed dimensions kept, as it is, and as what is found in it (`ndim`)."""
    x, dim = op.args[0], 0
    touched: list[int] = []
    spans: list[int] = []
    for place, given in enumerate(op.args[1]):
        taken = w.program.values[given.index] if given is not None else None
        covers = len(taken.shape) if taken is not None and taken.dtype == torch.bool else 1
        if taken is not None:
            touched += range(dim, dim + covers)
            spans.append(place)
        dim += covers
    numbers = _numbers(op, w, touched) if op.name == "index" else None
    by_rows = numbers is not None and takes_rows(op, w, touched[0], numbers)
    planes = _take_planes(w, x, touched[0], numbers) if by_rows else fixed_rows(op, w, x, touched)
    left = [d for d in range(len(w.shape(x))) if d not in touched]
    start = touched[0] if spans == list(range(spans[0], spans[-1] + 1)) else 0
    places = {d: i if i < start else i + ndim - len(left) for i, d in enumerate(left)}
    return planes, tuple(_move_dims(p, places, ndim) for p in planes)


def _numbers(op: Op, w: Walk, touched: Sequence[int]) -> list[int] | None:
    """The positions that an op takes along one dimension, where the code says which; None elsewhere."""
    given = [ref for ref in op.args[1] if ref is not None]
    value = _constant(w, given[0]) if len(given) == 1 else None
    known = value is not None and value.ndim == 1 and value.dtype == torch.int64 and not value.is_meta
    return [int(number) for number in value] if known and len(touched) == 1 and value is not None else None


def _constant(w: Walk, ref: Ref) -> Tensor | None:
    """The values of a tensor that the code holds, as that which a list of numbers becomes."""
    index = ref.index
    while (maker := w.program.values[index].producer) >= 0 and w.program.ops[maker].name in _SAME:
        index = w.program.ops[maker].inputs[0]
    return w.program.constants.get(index)


def _take_planes(w: Walk, x: Ref, dim: int, numbers: Sequence[int] | None) -> Planes:
    """The planes along the other dimensions, at the first of the positions that are taken."""
    first = numbers[0] if numbers else 0
    planes = (p.select(dim, first).unsqueeze(dim) if p.shape[dim] > 1 else p for p in w.of(x))
    return tuple(p for p in planes if varying(p))


@rule("index_add", "index_copy", "index_reduce")
def index_add(op: Op, w: Walk) -> Sequence[Planes]:
    """The dimension that is written along keeps its length; in the others what is written meets what was there."""
    x, source, dim = op.args[0], op.arguments["source"], op.arguments["dim"] % len(w.shape(op.args[0]))
    return [_put_rows(op, w, dim, [(fixed_rows(op, w, r, [dim]), w.shape(r)) for r in (x, source)])]


@rule("slice_scatter", "select_scatter")
def put_slice(op: Op, w: Walk) -> Sequence[Planes]:
    """The values written meet those that were there; along the dimension itself, too, where a slice shrinks with it."""
    x, source = op.args[:2]
    dim = op.arguments["dim"] % len(w.shape(x))
    planes, shape = w.of(source), w.shape(source)
    if op.name == "select_scatter":
        planes, shape = tuple(p.unsqueeze(dim) for p in planes), (*shape[:dim], 1, *shape[dim:])
    own, written = along(w.of(x), [dim]), along(planes, [dim])
    if op.name == "slice_scatter" and own is not None and written is not None:
        size = w.shape(x)[dim]
        start, stop, step = span(op, size)
        if step == 1 and varying(own) == varying(written) == (dim,):
            reason = Reason(f"{op.name} takes fixed positions", op.name, op.source)
            doubt_ends(op, w, own, dim, (start, stop), reason)
            w.atoms.unite(own.narrow(dim, start, stop - start), written, reason)
            rest = [(without(p, [dim]), n) for p, n in ((w.of(x), w.shape(x)), (planes, shape))]
            return [(own, *_put_rows(op, w, dim, rest))]
    reason = Reason(f"{op.name} takes fixed positions", op.name, op.source)
    rows = [(w.rows(x, [dim], reason), w.shape(x)), (w.hold_planes(planes, [dim], reason), shape)]
    return [_put_rows(op, w, dim, rows)]


def _put_rows(op: Op, w: Walk, dim: int, parts: Sequence[tuple[Planes, tuple[int, ...]]]) -> Planes:
    """The values written and those that were there meet in all dimensions but the one that is written along."""
    return w.merge(op, [(planes, tuple(1 if d == dim else n for d, n in enumerate(shape))) for planes, shape in parts])


def _move_dims(plane: Tensor, target: dict[int, int], ndim: int) -> Tensor:
    """A plane whose dimension d becomes dimension target[d] of `ndim`."""
    shape = [1] * ndim
    for d, place in target.items():
        shape[place] = plane.shape[d]
    return plane.reshape(shape)
