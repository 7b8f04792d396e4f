"""Norms over the channels of every row (LayerNorm, RMSNorm), and how much an error in a row counts behind them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mipp.graph.downstream import Downstream, downstream, result_of
from mipp.graph.nodes import PruningGraph
from mipp.graph.program import Op, Program, Ref

_TRANSPARENT = ("to", "_to_copy", "type_as", "float", "dropout", "clone", "detach", "alias", "contiguous")
_ROOTS = ("rsqrt", "sqrt")
_EPS = 1e-6


@dataclass(frozen=True)
class RowNorm:
    """A division of each row by its root mean square, or by its standard deviation.

    Attributes:
        centred: Whether it is the standard deviation.
        eps: Added to the mean square before the root.
    """

    centred: bool
    eps: float

    def weigh(self, rows: Tensor) -> Tensor:
        """The weight of a squared error in each row, once the rows are normalised; [rows, channels] to [rows]."""
        spread = rows.float().var(1, correction=0) if self.centred else rows.float().square().mean(1)
        return 1 / (spread + self.eps).clamp_min(torch.finfo(torch.float32).tiny)


def row_norm(program: Program, value: int) -> RowNorm | None:
    """The norm over the last dimension that reads a value; None if none does."""
    for op in _readers(program, value):
        found = _whole(program, op) or _in_parts(program, op)
        if found is not None:
            return found
    return None


def row_norm_behind(program: Program, op: Op, after: Downstream | None = None) -> RowNorm | None:
    """The norm over rows that reads what a layer leads to: its output, with the batch norm and the sum that follow it.

    Args:
        program: The pass.
        op: The layer.
        after: What follows it, where that is known.
    """
    return row_norm(program, result_of(program, op, downstream(program, op) if after is None else after))


def has_normalised_streams(graph: PruningGraph) -> bool:
    """True if a layer that reads nodes leads to a value that is normalised row by row, as in transformers."""
    program = graph.program
    ops = [program.ops[site.op] for group in graph.groups.values() for site in graph.readers(group)]
    return any(row_norm_behind(program, op) for op in ops)


def _readers(program: Program, value: int) -> Iterator[Op]:
    """The ops that read a value, those that merely hand it on left out."""
    for reader in program.readers[value]:
        op = program.ops[reader]
        if op.name in _TRANSPARENT and op.inputs[:1] == (value,):
            yield from _readers(program, op.outputs[0])
        else:
            yield op


def _whole(program: Program, op: Op) -> RowNorm | None:
    """A norm that is one op."""
    if op.name not in ("layer_norm", "rms_norm") or len(op.arguments["normalized_shape"]) != 1:
        return None
    eps = op.arguments.get("eps")
    return RowNorm(op.name == "layer_norm", torch.finfo(program.values[op.inputs[0]].dtype).eps if eps is None else eps)


def _in_parts(program: Program, op: Op) -> RowNorm | None:
    """A norm written as the mean of squares, or the variance, and its root."""
    centred = op.name == "var"
    mean = op if centred else next(_readers(program, op.outputs[0]), None) if _is_square(op) else None
    if mean is None or mean.name != ("var" if centred else "mean") or not _along_rows(mean):
        return None
    after = list(_readers(program, mean.outputs[0]))
    eps = 0.0
    if len(after) == 1 and after[0].name == "add":
        eps = _number(next((a for a in after[0].args[1:] if not isinstance(a, Ref)), None))
        after = list(_readers(program, after[0].outputs[0]))
    return RowNorm(centred, eps) if any(o.name in _ROOTS for o in after) else None


def _is_square(op: Op) -> bool:
    if op.name == "pow":
        return bool(op.args[1] == 2)
    return op.name == "square" or (op.name == "mul" and op.args[0] == op.args[1])


def _along_rows(op: Op) -> bool:
    dim = op.arguments.get("dim")
    return list(dim) == [-1] if isinstance(dim, list | tuple) else dim == -1


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else _EPS
