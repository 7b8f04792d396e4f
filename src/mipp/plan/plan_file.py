"""The JSON form of a plan: positions written compactly, and read typed and bounded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mipp.errors import clip, quote
from mipp.graph.axes import Ints
from mipp.graph.nodes import NodeGroup, ParamSlice, Reduction, Size
from mipp.runtime.typed import FormError

FORMAT = "mipp-plan-1"
MOST_POSITIONS = 2**26
"""Positions of all nodes of a plan, and the length of an axis: networks of a hundred billion parameters have fewer."""
_Kind = Literal["regular", "listed"]


@dataclass(frozen=True)
class GroupRecord:
    """A group in a plan file; a slice is [tensor, axis, reads, kind of positions, positions]."""

    size: int
    slices: tuple[tuple[str, int, bool, _Kind, object], ...]
    multiple: int = 1
    alike: str = ""


@dataclass(frozen=True)
class PlanRecord:
    """The content of a plan file, in types; a `PruningPlan` says what the fields mean."""

    format: Literal["mipp-plan-1"]
    method: str
    budget: dict[str, object]
    kept: dict[str, tuple[int, ...]]
    information: dict[str, tuple[float, float]]
    groups: dict[str, GroupRecord]
    attributes: tuple[tuple[str, str, int, dict[str, int]], ...]
    reductions: tuple[
        tuple[str, str, int, int, dict[str, tuple[_Kind, object]], tuple[tuple[int, int], ...], tuple[int, ...]], ...
    ]
    tensors: dict[str, tuple[int, ...]]
    heads: dict[str, int] = field(default_factory=dict)
    sensitivity: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def node_groups(self) -> dict[str, NodeGroup]:
        """The groups with the positions of their nodes.

        Raises:
            FormError: Positions are outside of their tensors, or more than any network has.
        """
        found: dict[str, NodeGroup] = {}
        first = room = 0
        for name, group in self.groups.items():
            slices = []
            for tensor, axis, reads, kind, data in group.slices:
                shape = self.tensors.get(tensor, ())
                length = shape[axis] if 0 <= axis < len(shape) else 0
                positions = _decode(f"group '{name}' in '{tensor}'", group.size, length, kind, data)
                slices.append(ParamSlice(tensor, axis, positions, reads))
                room += positions.size
                _check_room(room)
            found[name] = NodeGroup(name, group.size, tuple(slices), first, group.multiple, group.alike)
            first += group.size
        return found

    def node_reductions(self, groups: Mapping[str, NodeGroup]) -> Iterable[Reduction]:
        """The reductions with the positions of the nodes.

        Raises:
            FormError: Positions are outside of the axis, or more than any network has.
        """
        room = 0
        for module, op, call, length, encoded, reads, writes in self.reductions:
            positions = {}
            for name, (kind, data) in encoded.items():
                if name not in groups:
                    raise FormError(f"a reduction names a group {quote(name)}, which is not there")
                positions[name] = _decode(f"group '{name}' in {op}", groups[name].size, length, kind, data)
                room += positions[name].size
                _check_room(room)
            yield Reduction(module, op, call, length, positions, reads, writes)

    def sizes(self) -> dict[tuple[str, str], Size]:
        """The module attributes that count nodes."""
        return {(module, name): Size(fixed, per_node) for module, name, fixed, per_node in self.attributes}


def group_to_dict(group: NodeGroup) -> dict[str, Any]:
    """A group as `GroupRecord` reads it."""
    slices = [[s.tensor, s.axis, s.reads, *_encode(s.positions)] for s in group.slices]
    return (
        {"size": group.size, "slices": slices}
        | ({"multiple": group.multiple} if group.multiple > 1 else {})
        | ({"alike": group.alike} if group.alike else {})
    )


def reduction_to_list(r: Reduction) -> list[Any]:
    """A reduction as `PlanRecord` reads it."""
    positions = {name: _encode(places) for name, places in r.positions.items()}
    return [r.module, r.op, r.call, r.length, positions, [list(read) for read in r.reads], list(r.writes)]


def _encode(positions: Ints) -> tuple[str, list[Any]]:
    """Positions as [start, step between nodes, count, step inside a node] where they are regular."""
    nodes, count = positions.shape
    start = int(positions[0, 0])
    outer = int(positions[1, 0]) - start if nodes > 1 else 1
    inner = int(positions[0, 1]) - start if count > 1 else 1
    regular = start + outer * np.arange(nodes)[:, None] + inner * np.arange(count)[None, :]
    if np.array_equal(regular, positions):
        return "regular", [start, outer, count, inner]
    return "listed", positions.tolist()


def _decode(where: str, size: int, length: int, kind: _Kind, data: Any) -> Ints:
    """Positions of `size` nodes on an axis of `length`, shape [nodes, positions per node].

    Raises:
        FormError: They are not positions of so many nodes, or not inside of the axis.
    """
    unlike = FormError(f"{clip(where)}: expected positions of {size} nodes inside of an axis of {length}")
    try:
        numbers = np.array(data)
    except (ValueError, OverflowError) as error:  # lists of different lengths
        raise unlike from error
    if numbers.dtype.kind != "i" or not 1 <= size <= length <= MOST_POSITIONS:
        raise unlike
    if kind == "listed":
        if numbers.size % size or numbers.size > length or numbers.min() < 0 or numbers.max() >= length:
            raise unlike
        return numbers.astype(np.int64).reshape(size, -1)
    if numbers.shape != (4,):
        raise unlike
    start, outer, count, inner = map(int, numbers)
    corners = [start + outer * i + inner * j for i in (0, size - 1) for j in (0, count - 1)]
    if count < 1 or size * count > length or min(corners) < 0 or max(corners) >= length:
        raise unlike
    positions: Ints = start + outer * np.arange(size)[:, None] + inner * np.arange(count)[None, :]
    return positions


def _check_room(positions: int) -> None:
    if positions > MOST_POSITIONS:
        raise FormError(f"it has more than {MOST_POSITIONS:,} positions of nodes, which no network has")
