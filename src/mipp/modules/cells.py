"""Recurrent layers on a GPU: torch would run them in kernels that have no rules, or no derivatives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload


def _lstm_cell(
    x: Tensor,
    state: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    hidden, cell = state
    gates = F.linear(hidden, w_hh, b_hh) + F.linear(x, w_ih, b_ih)
    enter, forget, content, leave = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * content.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru_cell(
    x: Tensor, hidden: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    given, kept = F.linear(x, w_ih, b_ih).chunk(3, 1), F.linear(hidden, w_hh, b_hh).chunk(3, 1)
    reset, update = (kept[0] + given[0]).sigmoid(), (kept[1] + given[1]).sigmoid()
    new = (given[2] + kept[2] * reset).tanh()
    return (hidden - new) * update + new


CELLS: Mapping[OpOverload, Callable[..., Any]] = {
    torch.ops.aten.lstm_cell.default: _lstm_cell,
    torch.ops.aten.gru_cell.default: _gru_cell,
}
"""Cells in ops that have rules; arguments as in the op's schema."""


@contextmanager
def differentiable_recurrence(model: nn.Module) -> Iterator[None]:
    """Runs recurrent layers without cuDNN, whose kernels have no derivatives in eval mode and none of second order."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield
