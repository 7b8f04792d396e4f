"""Steps that several rules take: unite operands, hold lengths, pair equal parts, lift a vector to its dimension."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mipp.graph.axes import Planes, Reason, varying
from mipp.graph.program import Op, Ref

if TYPE_CHECKING:
    from mipp.graph.tracker import Walk


def meet(op: Op, w: "Walk") -> Sequence[Planes]:
    """Unites the operands position by position; every result has their planes."""
    ordered = sorted(
        op.inputs, key=lambda i: not w.is_weight(Ref(i))
    )  # a weight that is computed is read by its own axes
    operands = [(w.of(Ref(i)), w.program.values[i].shape) for i in ordered]
    planes = w.merge(op, operands)
    return [planes for _ in op.outputs]


def fixed_rows(op: Op, w: "Walk", x: Ref, dims: Sequence[int]) -> Planes:
    return w.rows(x, dims, Reason(f"{op.name} takes fixed positions", op.name, op.source))


def hold(op: Op, w: "Walk", x: Ref, dims: Sequence[int]) -> Sequence[Planes]:
    """Keeps the length of `dims` and passes the planes that do not vary there (results have the dimensions of `x`)."""
    dims = [d % len(w.shape(x)) for d in dims if w.shape(x)]
    planes = fixed_rows(op, w, x, dims)
    same = [len(w.program.values[i].shape) == len(w.shape(x)) for i in op.outputs]
    return [planes if fits else _lose(op, w, planes) for fits in same]


def _lose(op: Op, w: "Walk", planes: Planes) -> Planes:
    w.freeze(planes, Reason(f"{op.name} changes the dimensions", op.name, op.source))
    return ()


def pair(op: Op, w: "Walk", plane: Tensor, dim: int, parts: int) -> Tensor:
    """Ties the same position of every equal part of an axis, freezes it where they are unequal; returns the plane."""
    if plane.shape[dim] % parts:
        w.freeze((plane,), Reason(f"{op.name} into {parts} unequal parts", op.name, op.source))
    else:
        fixed = Reason(f"{op.name} pairs positions with ones of a fixed size", op.name, op.source)
        w.atoms.unite_along(plane.unflatten(dim, (parts, -1)), [dim], fixed)
    return plane


def repeat(planes: Planes, dim: int, times: int) -> Planes:
    """Planes in which each position of a dimension stands so many times, one after the other."""
    return tuple(p.repeat_interleave(times, dim) if times > 1 and dim in varying(p) else p for p in planes)


def per_channel(w: "Walk", vector: Ref, ndim: int, dim: int = 1) -> tuple[Planes, tuple[int, ...]]:
    """Planes and shape of a vector as it meets one dimension of a tensor."""
    shape = tuple(w.shape(vector)[0] if d == dim else 1 for d in range(ndim))
    return tuple(p.reshape(shape) for p in w.of(vector)), shape
