"""Axes of heads of which some are read as a slice and others by their number, as those of keys beside many queries."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mipp.graph.axes import Reason, along, line, varying
from mipp.graph.findings import WalkDoubt
from mipp.graph.program import Op, Ref

if TYPE_CHECKING:
    from mipp.graph.tracker import Walk


def takes_rows(op: Op, w: "Walk", dim: int, numbers: Sequence[int]) -> bool:
    """True if positions are taken by number out of an axis of heads, of which others are taken as a slice.

    They have to stay, with those that are counted to reach them, from the start or from the end; the others need not.
    """
    x = op.args[0]
    plane, size = along(w.of(x), [dim]), w.shape(x)[dim]
    if plane is None or not is_of_rows(w, x, dim):
        return False
    reason = Reason(f"{op.name} counts to the positions {list(numbers)}", op.name, op.source)
    unite_rows(w, plane, dim, reason)
    for number in numbers:
        start, stop = (size + number, size) if number < 0 else (0, number + 1)
        w.atoms.freeze(plane.narrow(dim, start, stop - start), reason)
    return True


def is_of_rows(w: "Walk", x: Ref, dim: int) -> bool:
    """True if an axis is the outer one of two that were one before, and is sliced into unequal parts.

    So are heads of queries beside those of keys and values: whole heads are the nodes.
    """
    plane, size = along(w.of(x), [dim]), w.shape(x)[dim]
    if plane is None or len(varying(plane)) != 2:
        return False
    inner = next(d for d in varying(plane) if d != dim)
    outer_step, inner_step = (int(line(plane, d)[:2].diff().abs()) for d in (dim, inner))
    readers = (w.program.ops[number] for number in w.program.readers[x.index])
    slices = [op for op in readers if op.name in ("slice", "narrow") and op.arguments["dim"] % plane.ndim == dim]
    spans = [(start, stop) for start, stop, _ in (span(op, size) for op in slices) if (start, stop) != (0, size)]
    return outer_step > inner_step and any(size % (stop - start) for start, stop in spans if stop > start)


def unite_rows(w: "Walk", plane: Tensor, dim: int, reason: Reason) -> None:
    w.atoms.unite_along(plane, [d for d in varying(plane) if d != dim], reason)


def doubt_ends(op: Op, w: "Walk", plane: Tensor, dim: int, ends: tuple[int, int], reason: Reason) -> None:
    """Notes that a slice must start and end where the code computes it, or at attributes."""
    size, positions = plane.shape[dim], line(plane, dim)
    for end in {*ends} - {0, size}:
        w.doubts.append(WalkDoubt(op.index, end, positions[:end], reason))
        w.doubts.append(WalkDoubt(op.index, size - end, positions[end:], reason))


def span(op: Op, size: int) -> tuple[int, int, int]:
    """Start, stop and step of a slice of an axis of `size` positions."""
    a = op.arguments
    start = a["start"] or 0
    if op.name == "narrow":
        return start % max(size, 1), start % max(size, 1) + a["length"], 1
    return *slice(start, a["end"]).indices(size)[:2], a["step"]
