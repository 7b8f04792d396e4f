"""Ops that move data without computing: torch itself moves the planes."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mipp.graph.axes import FIXED, Planes, Reason, along, line, move_plane, varying, without
from mipp.graph.findings import WalkDoubt
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.rules.rows import doubt_ends, is_of_rows, span, takes_rows, unite_rows
from mipp.graph.rules.stacks import slices_of
from mipp.graph.rules.steps import fixed_rows, hold, pair, repeat
from mipp.graph.tracker import Walk, freeze_all


@rule("permute", "transpose", "t", "movedim", "swapaxes", "unsqueeze", "squeeze", "flatten")
@rule("numpy_T", "matrix_H", "mT", "adjoint", "moveaxis", "swapdims", "unfold")
@rule("repeat", "tile", "repeat_interleave", "atleast_1d", "atleast_2d", "atleast_3d", "ravel")
def move(op: Op, w: Walk) -> Sequence[Planes]:
    x = op.args[0]
    if op.name == "repeat_interleave" and len(op.inputs) > 1:  # each position as often as a tensor says
        dim = op.arguments["dim"]
        return hold(op, w, x, range(len(w.shape(x))) if dim is None else [dim])
    if op.name == "unfold":  # windows along one dimension
        dim = op.arguments["dimension"] % len(w.shape(x))
        return [tuple(p.unsqueeze(-1) for p in fixed_rows(op, w, x, [dim]))]
    planes = _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))
    return [(*planes[0], *_copies(op, w))] if op.name in ("repeat", "tile", "repeat_interleave") else planes


@rule("expand", "broadcast_to")
def expand(op: Op, w: Walk) -> Sequence[Planes]:
    shape = w.program.values[op.outputs[0]].shape
    return [(*_move(op, w, op.args[0], lambda t: t.expand(shape))[0], *_copies(op, w))]


def _copies(op: Op, w: Walk) -> Planes:
    """Planes along the dimensions that had one position: any of the copies can go if the code computes their number."""
    before, after = w.shape(op.args[0]), w.program.values[op.outputs[0]].shape
    fresh = len(after) - len(before)
    dims = [d for d, size in enumerate(after) if size > 1 and (d < fresh or before[d - fresh] == 1)]
    return w.elastic(op, after, dims, f"to the fixed sizes {list(after)}")


@rule("expand_as", "view_as", "reshape_as")
def resize_as(op: Op, w: Walk) -> Sequence[Planes]:
    """The sizes of another tensor: where these shrink, the result does."""
    shape = w.shape(op.args[1])
    if op.name == "expand_as":
        planes, own = w.of(op.args[0]), w.shape(op.args[0])
    else:
        planes, own = _move(op, w, op.args[0], lambda t: t.reshape(shape))[0], shape
    return [w.merge(op, [(planes, own), (w.of(op.args[1]), shape)])]


@rule("view", "reshape", "_unsafe_view", "unflatten")
def reshape(op: Op, w: Walk) -> Sequence[Planes]:
    if "dtype" in op.arguments:
        return freeze_all(op, w)
    x, shape = op.args[0], w.program.values[op.outputs[0]].shape
    results = _move(op, w, x, lambda t: t.reshape(shape))
    sizes = op.arguments.get("size") or op.arguments.get("shape") or op.arguments.get("sizes") or ()
    start = op.arguments["dim"] % len(w.shape(x)) if op.name == "unflatten" else 0
    reason = Reason(f"{op.name} to the fixed sizes {list(sizes)}", op.name, op.source)
    for plane in results[0]:
        dims = varying(plane)
        if len(dims) == 2:
            w.splits.append((plane, *_split_order(dims, sizes, start)))
        elif len(dims) > 2:
            w.splits.extend((plane, a, b) for a, b in pairwise(dims))
        for dim in dims:
            if 0 <= dim - start < len(sizes):
                inferred = sizes[dim - start] == -1
                w.doubts.append(WalkDoubt(op.index, shape[dim], line(plane, dim), reason, inferred))
    return results


def _split_order(dims: tuple[int, ...], sizes: Sequence[int], start: int) -> tuple[int, int]:
    """The dimension to unite along first where a tracked axis is split in two: that of fixed size, if one is fixed."""
    first, second = dims
    inferred = [d for d in dims if 0 <= d - start < len(sizes) and sizes[d - start] == -1]
    return (second, first) if inferred == [first] else (first, second)


@rule("flip", "roll", "tensor_split", "hsplit", "vsplit", "dsplit")
def rearrange(op: Op, w: Walk) -> Sequence[Planes]:
    """Passes the planes that the op leaves whole; what it rearranges keeps its length."""
    x = op.args[0]
    dims = op.arguments.get("dims", op.arguments.get("dim"))
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(w.shape(x))))
    return hold(op, w, x, dims)


@rule("select", "unbind")
def select(op: Op, w: Walk) -> Sequence[Planes]:
    dim = op.arguments["dim"] % len(w.shape(op.args[0]))
    if op.index in w.unread:
        return _select_shape(op, w, dim)
    if op.name != "select" or not takes_rows(op, w, dim, [op.arguments["index"]]):
        fixed_rows(op, w, op.args[0], [dim])
    if (slices := slices_of(op.args[0], w, dim)) is not None:
        return [slices[op.arguments["index"]]] if op.name == "select" else slices
    results = _move(op, w, op.args[0], lambda t: op.func(t, *op.args[1:], **op.kwargs))
    return [tuple(p for p in planes if varying(p)) for planes in results]


def _select_shape(op: Op, w: Walk, dim: int) -> Sequence[Planes]:
    """A position that nothing reads has to be there, whichever it is: as many as the code counts to stay."""
    size, number = w.shape(op.args[0])[dim], op.arguments.get("index", 0)
    first, last = (number, size) if number < 0 else (0, number + 1)
    plane = along(w.of(op.args[0]), [dim])
    if plane is not None and number not in (0, -1, size - 1):
        stay = plane.narrow(dim, first % size, last - first % size)
        w.atoms.freeze(stay, Reason(f"{op.name} counts to the position {number}", op.name, op.source))
    return [() for _ in op.outputs]


@rule("slice", "narrow")
def cut_out(op: Op, w: Walk) -> Sequence[Planes]:
    """A slice of a tracked axis: where it starts and ends must be computed, or be an attribute."""
    x = op.args[0]
    if len(op.inputs) > 1:
        return freeze_all(op, w)
    dim, size = op.arguments["dim"] % len(w.shape(x)), w.shape(x)[op.arguments["dim"]]
    start, stop, step = span(op, size)
    plane = along(w.of(x), [dim])
    reason = Reason(f"{op.name} takes fixed positions", op.name, op.source)
    if plane is not None and op.name == "narrow":
        w.doubts.append(WalkDoubt(op.index, stop - start, line(plane, dim)[start:stop], reason))
    if plane is not None and (start, stop, step) != (0, size, 1):
        if step != 1 and (size % step or start >= step or stop != size or len(varying(plane)) > 1):
            return hold(op, w, x, [dim])
        if step != 1:  # every second position, say: whole pairs go, so that those taken are still the same
            w.atoms.unite_along(plane.unflatten(dim, (-1, step)), [dim + 1], reason)
            return _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))
        doubt_ends(op, w, plane, dim, (start, stop), reason)
        if is_of_rows(w, x, dim):
            unite_rows(w, plane, dim, reason)
            if stop - start == 1:  # without it the slice would be empty
                w.atoms.freeze(plane.narrow(dim, start, 1), reason)
        elif len(varying(plane)) > 1:
            w.atoms.hold(plane, [dim], reason)
        w.parts.setdefault((x.index, dim), []).append((start, stop, plane.narrow(dim, start, stop - start), reason))
    return _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))


@rule("chunk", "unsafe_chunk")
def chunk(op: Op, w: Walk) -> Sequence[Planes]:
    """Chunks stay equal when the same position goes from each of them."""
    x, parts, dim = op.args[0], op.arguments["chunks"], op.arguments["dim"] % len(w.shape(op.args[0]))
    plane = along(w.of(x), [dim])
    if plane is not None:
        pair(op, w, plane, dim, parts)
    return _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))


@rule("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes")
def split(op: Op, w: Walk) -> Sequence[Planes]:
    """Parts of one size stay equal; parts of given sizes shrink with the sizes that the code gives."""
    x, dim = op.args[0], op.arguments["dim"] % len(w.shape(op.args[0]))
    plane = along(w.of(x), [dim])
    given: Any = op.arguments.get("split_size", op.arguments.get("split_sizes"))
    if plane is not None and plane.shape[dim] > 1:
        size = w.shape(x)[dim]
        equal = isinstance(given, int) or len(set(given)) == 1
        each = given if isinstance(given, int) else given[0]
        if equal and size > each:
            pair(op, w, plane, dim, -(-size // each))
        pieces = plane.split(each if equal else list(given), dim)
        for piece in pieces[:1] if equal else pieces:
            reason = Reason(f"{op.name} into the fixed sizes {given}", op.name, op.source)
            w.doubts.append(WalkDoubt(op.index, piece.shape[dim], line(piece, dim), reason))
    return _move(op, w, x, lambda t: op.func(t, *op.args[1:], **op.kwargs))


@rule("_pack_padded_sequence", "_pad_packed_sequence")
def pack(op: Op, w: Walk) -> Sequence[Planes]:
    """Steps and samples become one dimension, or come back from it."""
    lead = 2 if op.name == "_pack_padded_sequence" else 1
    planes = fixed_rows(op, w, op.args[0], range(lead))
    moved_planes = tuple(p.squeeze(0) if lead == 2 else p.unsqueeze(0) for p in planes)
    return [moved_planes, *[() for _ in op.outputs[1:]]]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(op: Op, w: Walk) -> Sequence[Planes]:
    plane = along(w.of(op.args[0]), [1])
    if plane is not None:
        pair(op, w, plane, 1, op.arguments["groups"])
    groups = op.arguments["groups"]
    return _move(op, w, op.args[0], lambda t: t.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2))


@rule("pixel_shuffle")
def pixel_shuffle(op: Op, w: Walk) -> Sequence[Planes]:
    """The r x r channels that fill one block of pixels are one node."""
    x, factor = op.args[0], op.arguments["upscale_factor"] ** 2
    planes, channel = fixed_rows(op, w, x, [-2, -1]), len(w.shape(x)) - 3
    return [_unite_runs(op, w, planes, channel, factor)]


def _unite_runs(op: Op, w: Walk, planes: Planes, channel: int, length: int) -> Planes:
    """Planes in which each run of so many channels is one node, and one position."""
    plane = along(planes, [channel])
    if plane is None:
        return planes
    runs = plane.unflatten(channel, (-1, length))
    w.atoms.unite_along(runs, [channel + 1], Reason(f"{op.name} makes blocks of a fixed size", op.name, op.source))
    first = runs.select(channel + 1, 0)
    return (*without(planes, [channel]), *([first] if varying(first) else []))


@rule("pixel_unshuffle")
def pixel_unshuffle(op: Op, w: Walk) -> Sequence[Planes]:
    x, factor = op.args[0], op.arguments["downscale_factor"] ** 2
    return [repeat(fixed_rows(op, w, x, [-2, -1]), len(w.shape(x)) - 3, factor)]


@rule("col2im")
def col2im(op: Op, w: Walk) -> Sequence[Planes]:
    """The run of kernel positions that are summed into one channel is one node."""
    x, kernel = op.args[0], torch.Size(op.arguments["kernel_size"]).numel()
    planes = _unite_runs(op, w, fixed_rows(op, w, x, [-1]), len(w.shape(x)) - 2, kernel)
    return [tuple(p.unsqueeze(-1) for p in planes)]


@rule("im2col")
def im2col(op: Op, w: Walk) -> Sequence[Planes]:
    """Every channel becomes a run of kernel positions."""
    x, kernel = op.args[0], torch.Size(op.arguments["kernel_size"]).numel()
    planes = repeat(fixed_rows(op, w, x, [-2, -1]), len(w.shape(x)) - 3, kernel)
    return [tuple(p.squeeze(-1) for p in planes)]


@rule("constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def pad(op: Op, w: Walk) -> Sequence[Planes]:
    x = op.args[0]
    amounts = list(op.arguments.get("pad") or op.arguments["padding"])
    padded = [len(w.shape(x)) - 1 - i for i in range(len(amounts) // 2) if any(amounts[2 * i : 2 * i + 2])]
    constant = op.name in ("constant_pad_nd", "pad") and op.arguments.get("mode", "constant") == "constant"
    if not constant or min(amounts, default=0) < 0:
        return [fixed_rows(op, w, x, padded)]
    tables = tuple(p for p in w.of(x) if len(varying(p)) > 1 and set(varying(p)) & set(padded))
    rows = w.hold_planes(tables, padded, Reason(f"{op.name} takes fixed positions", op.name, op.source))
    return [(*(_pad(p, amounts) for p in w.of(x) if all(p is not table for table in tables)), *rows)]


def _pad(plane: Tensor, amounts: Sequence[int]) -> Tensor:
    """New positions of an axis stay; where a plane does not vary, they are more of the same."""
    own = [n if plane.ndim - 1 - i // 2 in varying(plane) else 0 for i, n in enumerate(amounts)]
    return torch.constant_pad_nd(plane, own, FIXED)


@rule("cat", "concat", "concatenate")
def cat(op: Op, w: Walk) -> Sequence[Planes]:
    refs = [r for r in op.args[0] if 0 not in w.shape(r)]
    if not refs:
        return [()]
    shapes, ndim = [w.shape(r) for r in refs], len(w.shape(refs[0]))
    dim = op.arguments["dim"] % ndim
    reason = Reason("cat meets positions of a fixed size", op.name, op.source)
    joined = [along(w.of(r), [dim]) for r in refs]
    rows = sorted({d for p in joined if p is not None for d in varying(p) if d != dim})
    whole = [_by_rows(w, r, dim, rows, reason) for r in refs]
    joined = [  # parts of which every position is one node by rows, as heads that were turned whole
        p if row is None else row.expand([n if d in (dim, *rows) else 1 for d, n in enumerate(shape)])
        for p, row, shape in zip(joined, whole, shapes, strict=True)
    ]
    flat = [
        (
            tuple(p for p in without(w.of(r), [dim]) if p is not row),
            tuple(1 if d == dim else n for d, n in enumerate(w.shape(r))),
        )
        for r, row in zip(refs, whole, strict=True)
    ]
    if all(p is None for p in joined):
        return [w.merge(op, flat)]
    pieces = [
        torch.full([s[d] if d == dim else 1 for d in range(ndim)], FIXED) if p is None else p
        for p, s in zip(joined, shapes, strict=True)
    ]
    common = np.broadcast_shapes(*(p.narrow(dim, 0, 1).shape for p in pieces))
    pieces = [p.expand([p.shape[d] if d == dim else n for d, n in enumerate(common)]) for p in pieces]
    return [(torch.cat(pieces, dim), *w.merge(op, flat))]


def _by_rows(w: Walk, part: Ref, dim: int, rows: Sequence[int], reason: Reason) -> Tensor | None:
    """The plane along `rows` of a part that does not vary along them and the joined dimension at once, if it has one.

    What varies along the joined dimension alone keeps its length: positions of the result are in one plane.
    """
    own = along(w.of(part), [dim])
    row = along(w.of(part), rows)
    if row is None or row is own:
        return None
    if own is not None:
        w.atoms.freeze(own, reason)
    return row


def _move(op: Op, w: Walk, x: Ref, function: Callable[[Tensor], Any]) -> list[Planes]:
    results: list[list[Tensor]] = [[] for _ in op.outputs]
    for plane in sorted(w.of(x), key=lambda p: (-p.numel(), varying(p))):  # where two become one, the longer is cut
        for planes, out in zip(results, move_plane(plane, w.shape(x), function), strict=True):
            planes.append(out)
    return [_untangle(planes, w, Reason(f"{op.name} merges two axes", op.name, op.source)) for planes in results]


def _untangle(planes: list[Tensor], w: Walk, reason: Reason) -> Planes:
    """Drops planes that no longer vary; of those that now share a dimension only one can still be cut."""
    kept: list[Tensor] = []
    for plane in sorted(planes, key=w.atoms.gives_way):
        clash = [p for p in kept if set(varying(p)) & set(varying(plane))]
        if not varying(plane):
            w.atoms.freeze(plane, Reason("one position is taken out by the code", reason.op, reason.source))
        elif clash:
            w.freeze((plane,), reason)
        else:
            kept.append(plane)
    return tuple(kept)
