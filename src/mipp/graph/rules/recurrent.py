"""Recurrent layers over all steps: their states, and the gates that these follow from (`mipp.modules.recurrent`)."""

from collections.abc import Sequence

from torch import Tensor

from mipp.graph.axes import Planes, Reason, without
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.rules.steps import fixed_rows
from mipp.graph.tracker import Walk


@rule("recurrent_states")
def recurrent_states(op: Op, w: Walk) -> Sequence[Planes]:
    """Units that nothing is known of yet: the gates tell which positions of the weights are theirs."""
    time = op.arguments["time"]
    lead = without(fixed_rows(op, w, op.args[0], [time]), [2])
    units = [w.atoms.fresh(w.program.values[index].shape[-1]) for index in op.outputs]
    states, *last = (_last(atoms) for atoms in units)
    squeezed = tuple(plane.squeeze(time) for plane in lead)
    return [(*lead, *states), *((*squeezed, *(plane.squeeze(0) for plane in planes)) for planes in last)]


@rule("states_of_gates")
def states_of_gates(op: Op, w: Walk) -> Sequence[Planes]:
    """All gates of a unit go with it, from every value that holds them, and so does what it starts from."""
    gates, states, blocks = op.args
    units = _unit(op, w, gates[0], blocks)
    for other in [*(_unit(op, w, ref, blocks) for ref in gates[1:]), *(w.axis(ref, -1) for ref in states)]:
        w.atoms.unite(units, other, Reason("units of a fixed size", op.name, op.source))
    return [w.of(ref) for ref in states]


@rule("lstm_outputs")
def lstm_outputs(op: Op, w: Walk) -> Sequence[Planes]:
    units = _unit(op, w, op.args[0], 4)
    w.atoms.unite(units, w.axis(op.args[1], -1), Reason("units of a fixed size", op.name, op.source))
    return [(*without(w.of(op.args[0]), [2]), *_last(units))]


def _unit(op: Op, w: Walk, gates: Ref, blocks: int) -> Tensor:
    """The atom of every unit, from the first of its gates, after all are united."""
    rows = w.axis(gates, -1).reshape(blocks, -1)
    w.atoms.unite_along(rows, [0], Reason("gates of a fixed size", op.name, op.source))
    return rows[0]


def _last(atoms: Tensor) -> Planes:
    """The plane of a value with three dimensions along its last, if there is anything to vary."""
    return (atoms.reshape(1, 1, -1),) if len(atoms) > 1 else ()
