"""Follows the output of a layer through a batch norm and into a residual stream."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mipp.graph.layers import channel_dim
from mipp.graph.program import Op, Program, Ref

_TRANSPARENT = ("dropout", "clone", "detach", "alias")


@dataclass(frozen=True)
class Downstream:
    """The ops that follow an op whose output nothing else reads.

    Attributes:
        norm: Index of the batch norm that takes the output, -1 if there is none.
        addition: Index of the op that adds the (normalised) output to another value of the same shape, -1 if none does.
        other: That other value, -1 if there is none.
    """

    norm: int = -1
    addition: int = -1
    other: int = -1


def downstream(program: Program, op: Op) -> Downstream:
    """Follows the output of an op through a batch norm to an addition."""
    readers = program.readers
    value, norm = op.outputs[0], -1
    while len(readers[value]) == 1 and value not in program.outputs:
        reader = program.ops[readers[value][0]]
        if reader.name == "batch_norm" and norm < 0 and reader.args[0] == Ref(value):
            dims = len(program.values[value].shape)
            if not isinstance(reader.arguments["running_var"], Ref) or (channel_dim(op) == -1 and dims != 2):
                break
            norm = reader.index
        elif reader.name == "add" and reader.kwargs.get("alpha", 1) == 1:
            others = [r.index for r in reader.args[:2] if isinstance(r, Ref) and r.index != value]
            same = others and program.values[others[0]].shape == program.values[value].shape
            return Downstream(norm, reader.index, others[0]) if same else Downstream(norm)
        elif reader.name not in _TRANSPARENT:
            break
        value = reader.outputs[0]
    return Downstream(norm)


def result_of(program: Program, op: Op, after: Downstream) -> int:
    """The last value that a layer alone determines: its output, normalised and added to a stream where these follow."""
    last = next((index for index in (after.addition, after.norm) if index >= 0), op.index)
    return program.ops[last].outputs[0]


def read_by_relu(program: Program, op: Op, after: Downstream) -> int:
    """The result of a layer if nothing but ReLUs reads it, else -1."""
    value = result_of(program, op, after)
    names = {program.ops[reader].name for reader in program.readers[value]}
    return value if names == {"relu"} and value not in program.outputs else -1


def norm_scale(program: Program, norm: int, tensors: Mapping[str, Tensor]) -> Tensor:
    """Factor per channel that a batch norm in eval mode applies, shape [channels], in float64."""
    a = program.ops[norm].arguments
    variance = tensors[program.values[a["running_var"].index].name].detach().double()
    scale = torch.rsqrt(variance + a["eps"])
    if isinstance(a["weight"], Ref):
        scale = scale * tensors[program.values[a["weight"].index].name].detach().double()
    return scale
