"""The table of rules by op. The modules of `mipp.graph.rules` fill it; the package loads them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch._ops import OpOverload

if TYPE_CHECKING:
    from mipp.graph.axes import Planes
    from mipp.graph.program import Op
    from mipp.graph.tracker import Walk

Rule = Callable[["Op", "Walk"], Sequence["Planes"]]
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for ATen ops by name, without overloads."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def rule_of(func: OpOverload) -> Rule | None:
    """The rule of an op, the same for one that works in place; that of all pointwise ops where it has none itself."""
    found = _RULES.get(func.overloadpacket.__name__.rstrip("_"))
    return _RULES["pointwise"] if found is None and torch.Tag.pointwise in func.tags else found


def has_rule(func: OpOverload) -> bool:
    """True if an op is to be kept whole while tracing."""
    if func is torch.ops.aten.where.default:  # gives places, not values: nonzero
        return False
    return rule_of(func) is not None
