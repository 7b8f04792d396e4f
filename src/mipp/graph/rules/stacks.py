"""Tensors that are taken apart where they were put together, such as the states of all layers of a recurrent one.

Slices that nothing but `select` and `unbind` takes out of a stack are nodes of their own: they only have to be equally
long. So are those of a tensor that holds one value everywhere.
"""

from collections.abc import Sequence

from torch import Tensor

from mipp.graph.axes import Planes, varying
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.tracker import Walk


@rule("stack")
def stack(op: Op, w: Walk) -> Sequence[Planes]:
    parts = op.args[0]
    dim = op.arguments["dim"] % (len(w.shape(parts[0])) + 1)
    slices = [w.of(ref) for ref in parts]
    if (
        _is_taken_apart(op, w, dim)
        and len({tuple(map(varying, planes)) for planes in slices}) == 1
        and _are_lines(slices)
    ):
        w.slices[op.outputs[0]] = dim, slices
        _level(w, slices)
        return [tuple(p.unsqueeze(dim) for p in slices[0])]
    return [tuple(p.unsqueeze(dim) for p in w.merge(op, [(w.of(r), w.shape(r)) for r in parts]))]


def split_uniform(op: Op, w: Walk, planes: Planes) -> None:
    """Notes that slices of a tensor that holds one value everywhere have positions of their own, if taken apart."""
    shape = w.program.values[op.outputs[0]].shape
    for dim in (d for d, size in enumerate(shape) if size > 1 and _is_taken_apart(op, w, d)):
        first = tuple(p.squeeze(dim) for p in planes if dim not in varying(p))
        others = [tuple(w.atoms.elastic(p.numel()).reshape(p.shape) for p in first) for _ in range(shape[dim] - 1)]
        w.slices[op.outputs[0]] = dim, [first, *others]
        _level(w, [first, *others])
        return


def slices_of(x: Ref, w: Walk, dim: int) -> Sequence[Planes] | None:
    """The planes of every slice along a dimension, where they have planes of their own."""
    along, slices = w.slices.get(x.index, (-1, ()))
    return slices if along == dim else None


def _is_taken_apart(op: Op, w: Walk, dim: int) -> bool:
    """True if nothing but `select` and `unbind` along a dimension reads the result of an op, if anything does."""
    value = op.outputs[0]
    readers = [w.program.ops[reader] for reader in w.program.readers[value]]
    ndim = len(w.program.values[value].shape)
    return value not in w.program.outputs and all(
        reader.name in ("select", "unbind") and reader.arguments["dim"] % ndim == dim for reader in readers
    )


def _are_lines(slices: Sequence[Planes]) -> bool:
    return all(len(varying(plane)) == 1 for planes in slices for plane in planes)


def _level(w: Walk, slices: Sequence[Planes]) -> None:
    """Notes that the slices stay equally long."""
    lines: list[list[Tensor]] = [[plane.reshape(-1) for plane in planes] for planes in slices]
    w.levels += [pair for other in lines[1:] for pair in zip(lines[0], other, strict=True)]
