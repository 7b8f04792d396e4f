"""Recurrent layers in a few ops over all steps: torch's kernel runs through the steps, products follow from its states.

A layer of `nn.LSTM`, `nn.GRU` or `nn.RNN` becomes, for each direction, `recurrent_states` (torch's own kernel), the two
products that make its gates of the inputs and of the states before, each at all steps at once, and `states_of_gates`,
which says that the states are those that the gates make. Nothing runs step by step but the kernel, and the number of
ops does not depend on the number of steps.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

_KERNELS = {name: getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
_BLOCKS = {"lstm": 4, "gru": 3}
"""Gates of a unit; an RNN has one."""


def _recurrent_states(
    x: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor], kind: str, time: int, order: int
) -> list[Tensor]:
    """The states of one layer in one direction after every step, in the order of the inputs, and an LSTM's last cell.

    Args:
        x: Inputs, shape [steps, samples, inputs], or [samples, steps, inputs].
        start: The first state, and that of the cells, shape [samples, units].
        weights: Of inputs and states, then their biases if there are any, then that of a projection.
        kind: A key of the kernels.
        time: Dimension of the steps, 0 or 1.
        order: 1, or -1 where the last step comes first.
    """
    x = x.flip(time) if order < 0 else x
    first = [state.unsqueeze(0) for state in start]
    states, *last = _KERNELS[kind](
        x, first if kind == "lstm" else first[0], weights, len(weights) > 3, 1, 0.0, False, False, time == 1
    )
    return [states.flip(time) if order < 0 else states, *(cell.squeeze(0) for cell in last[1:])]


def _states_of_gates(gates: Sequence[Tensor], states: Sequence[Tensor], blocks: int) -> list[Tensor]:
    """The states as they are: known before the gates are.

    Args:
        gates: What the states follow from, shape [..., blocks x units].
        states: Shape [..., units].
        blocks: Gates of a unit.
    """
    return [torch.ops.aten.alias(state) for state in states]


def _lstm_outputs(gates: Tensor, cell: Tensor, time: int, order: int) -> Tensor:
    """The outputs of an LSTM in front of its projection, made from its gates, shape [..., units]."""
    enter, forget, content, leave = gates.chunk(4, -1)
    steps = list(zip(forget.sigmoid().unbind(time), (enter.sigmoid() * content.tanh()).unbind(time), strict=True))
    cells: list[Tensor] = []
    for kept, new in steps[::order]:
        cell = torch.addcmul(new, kept, cell)
        cells.append(cell)
    return leave.sigmoid() * torch.stack(cells[::order], time).tanh()


_OPS: Mapping[str, Callable[..., Any]] = {
    "recurrent_states(Tensor x, Tensor[] start, Tensor[] weights, str kind, int time, int order) -> Tensor[]": (
        _recurrent_states
    ),
    "states_of_gates(Tensor[] gates, Tensor[] states, int blocks) -> Tensor[]": _states_of_gates,
    "lstm_outputs(Tensor gates, Tensor cell, int time, int order) -> Tensor": _lstm_outputs,
}
_LIBRARY = torch.library.Library("mipp", "DEF")
for _schema, _function in _OPS.items():
    _LIBRARY.impl(_LIBRARY.define(_schema), _function, "CompositeImplicitAutograd")


def _direction(
    x: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor], kind: str, time: int, order: int
) -> tuple[Tensor, list[Tensor]]:
    """Outputs of one layer in one direction, and its last states."""
    ops, blocks = torch.ops.mipp, _BLOCKS.get(kind, 1)
    biases = weights[2:4] if len(weights) > 3 else (None, None)
    states, *last = ops.recurrent_states(x, start, weights, kind, time, order)
    steps, first = states.shape[time], start[0].unsqueeze(time)
    before = [states.narrow(time, 1, steps - 1), first] if order < 0 else [first, states.narrow(time, 0, steps - 1)]
    given = F.linear(x, weights[0], biases[0])
    fed = F.linear(torch.cat(before, time), weights[1], biases[1])
    # what is given is read twice: a layer that is, is not followed into a sum, so that its errors are its own
    gates = [given, fed] if kind == "gru" else [given, fed + given]
    if len(weights) in (3, 5):
        last = ops.states_of_gates(gates, [*last, start[1]], blocks)[:1]
        gates, blocks = [F.linear(ops.lstm_outputs(gates[1], start[1], time, order), weights[-1])], 1
        (states, _) = ops.states_of_gates(gates, [states, start[0]], blocks)
    else:
        states, *last = ops.states_of_gates(gates, [states, *last, *start], blocks)[: 1 + len(last)]
    return states, [states.select(time, 0 if order < 0 else -1), *last]


def _layers(
    kind: str, x: Tensor, start: Sequence[Tensor] | Tensor, weights: Sequence[Tensor], *settings: Any
) -> tuple[Tensor, ...]:
    """The outputs of a recurrent module and the last states of all its layers; arguments as in the op's schema."""
    _, num_layers, dropout, train, bidirectional, batch_first = settings
    starts = [start.unbind(0)] if isinstance(start, Tensor) else [state.unbind(0) for state in start]
    directions = 2 if bidirectional else 1
    each = len(weights) // (num_layers * directions)
    ends: list[list[Tensor]] = []
    for layer in range(num_layers):
        found = []
        for order in (1, -1)[:directions]:
            number = len(ends)
            own = weights[each * number : each * (number + 1)]
            states, last = _direction(x, [s[number] for s in starts], own, kind, int(batch_first), order)
            found.append(states)
            ends.append(last)
        x = torch.cat(found, -1) if bidirectional else found[0]
        x = F.dropout(x, dropout, train) if train and dropout and layer < num_layers - 1 else x
    return x, *(torch.stack(states) for states in zip(*ends, strict=True))


LAYERS: Mapping[OpOverload, Callable[..., Any]] = {kernel: partial(_layers, name) for name, kernel in _KERNELS.items()}
"""Recurrent layers in ops that have rules; arguments as in the op's schema."""
