"""The layers of one pass found again in another, which took other ops: each by its weight, its module and its turn."""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from mipp.graph.downstream import downstream
from mipp.graph.layers import as_layer, is_layer
from mipp.graph.program import Op, Program, Ref


class Use(NamedTuple):
    """One use of a layer.

    Attributes:
        module: Path of the module that calls the op.
        weight: Name of the weight; the name of the op where the weight is computed.
        turn: Which of the module's uses of that weight it is, counted from 0.
    """

    module: str
    weight: str
    turn: int


def weight_name(program: Program, op: Op) -> str:
    """Name of the weight of a layer; "" if it is computed, or the op is none."""
    weight = as_layer(op.name, op.arguments).get("weight") if is_layer(op.name) else None
    value = program.values[weight.index] if isinstance(weight, Ref) else None
    return value.name if value is not None and value.origin == "parameter" else ""


def uses_of(program: Program) -> dict[int, Use]:
    """The use that each layer of a pass is, by index of the op."""
    turns: Counter[tuple[str, str]] = Counter()
    found: dict[int, Use] = {}
    for op in program.ops:
        if is_layer(op.name):
            key = op.module, weight_name(program, op) or op.name
            found[op.index] = Use(*key, turns[key])
            turns[key] += 1
    return found


def match(expected: Program, own: Program, wanted: Collection[int]) -> dict[int, int]:
    """The layers of one pass that are layers of another.

    A layer that takes more turns (a recurrent one, on longer sequences) is at each of them what it is at its last.

    Args:
        expected: The pass whose layers are looked for.
        own: The pass in which they are.
        wanted: Indices of ops of `expected`.

    Returns:
        Index in `expected` by index in `own`, in the order of `own`; without the layers that `own` does not have, and
        without those of computed weights where it has another number of them.
    """
    places = {use: index for index, use in uses_of(expected).items()}
    if expected.signature == own.signature:
        return {index: index for index in places.values() if index in set(wanted)}
    there, here = (Counter((use.module, use.weight) for use in uses) for uses in (places, uses_of(own).values()))
    found: dict[int, int] = {}
    for index, use in uses_of(own).items():
        key, count = (use.module, use.weight), there[use.module, use.weight]
        sure = weight_name(own, own.ops[index]) or here[key] == count
        if count and sure:
            found[index] = places[use._replace(turn=min(use.turn, count - 1))]
    return {index: place for index, place in found.items() if place in wanted}


def norm_behind(program: Program, op: Op) -> str:
    """Name of the running variance of the batch norm that takes the output of a layer, "" if none does."""
    norm = downstream(program, op).norm
    return "" if norm < 0 else program.values[program.ops[norm].arguments["running_var"].index].name
