"""One view of the ops that read nodes through a weight: an input, and a weight [outputs, inputs per group, ...]."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from mipp.graph.program import Op, Ref

LINEAR = ("linear", "addmm", "matmul", "mm")
"""Ops whose channels are the last dimension of input and output."""


def channel_dim(op: "Op") -> int:
    """The dimension of the output of a layer that holds its channels, from the end: there may be no samples."""
    if op.name in LINEAR:
        return -1
    named = re.search(r"([123])d", op.name)
    return -1 - (int(named[1]) if named else len(op.arguments["stride"]))


def input_of(op: "Op") -> int:
    """The value that a layer reads."""
    return int(as_layer(op.name, op.arguments)["input"].index)


def is_layer(name: str) -> bool:
    """True if an op may read nodes through a weight."""
    return name in LINEAR or "conv" in name


def weight_argument(name: str) -> str:
    """The name that a layer has for its weight."""
    return {"matmul": "other", "mm": "mat2", "addmm": "mat2"}.get(name, "weight")


def as_layer(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a layer, renamed and with the weight the usual way round."""
    layer = dict(arguments)
    if name == "addmm":
        layer |= {"input": arguments["mat1"], "weight": arguments["mat2"], "bias": arguments["self"]}
    elif name in ("matmul", "mm"):
        layer |= {"input": arguments["self"], "weight": arguments[weight_argument(name)], "bias": None}
    if is_stored_transposed(name, arguments) and isinstance(layer["weight"], Tensor):
        layer["weight"] = swap_axes(layer["weight"], layer.get("groups", 1))
    return layer


def is_stored_transposed(name: str, arguments: Mapping[str, Any]) -> bool:
    """True if the weight of a layer is stored as [inputs, outputs per group, ...]."""
    return name in LINEAR[1:] or name.startswith("conv_transpose") or bool(arguments.get("transposed"))


def swap_axes(weight: Tensor, groups: int) -> Tensor:
    """A weight [groups x a, b, ...] as [groups x b, a, ...]; its own inverse, and a view for one group."""
    if groups == 1:
        return weight.transpose(0, 1)
    by_group: Tensor = weight.unflatten(0, (groups, -1))
    return by_group.transpose(1, 2).flatten(0, 1)


def bias_of(op: "Op") -> "Ref | None":
    """The bias of a layer, if it has one."""
    bias: Ref | None = as_layer(op.name, op.arguments)["bias"]
    return bias
