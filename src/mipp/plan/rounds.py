"""Plans of several rounds of pruning as one plan for the first model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mipp.errors import PlanMismatchError
from mipp.graph.axes import Ints
from mipp.graph.nodes import NodeGroup, ParamSlice, Reduction, Size

if TYPE_CHECKING:  # a plan composes itself by this
    from mipp.plan.plan import PruningPlan

Axis = tuple[str, int]
"""Name of a tensor, and one of its axes."""


def positions_to_keep(plan: "PruningPlan") -> dict[Axis, Ints]:
    """Positions that stay, ascending, for every axis of a tensor that loses any; an emptied group leaves its first."""
    stays: dict[Axis, NDArray[np.bool_]] = {}
    for name, group in plan.groups.items():
        removed = np.setdiff1d(np.arange(group.size), np.asarray(plan.kept[name] or (0,), np.int64))
        for s in group.slices if len(removed) else ():
            stay = stays.setdefault((s.tensor, s.axis), np.ones(plan.tensors[s.tensor][s.axis], bool))
            stay[s.positions[removed].ravel()] = False
    return {axis: np.flatnonzero(stay) for axis, stay in stays.items()}


def places_to_keep(r: Reduction, plan: "PruningPlan") -> Ints:
    """Positions that stay, ascending, of an axis that an op runs over; an emptied group leaves its first."""
    stay = np.ones(r.length, bool)
    for name, positions in r.positions.items():
        stay[np.delete(positions, list(plan.kept[name] or (0,)), axis=0)] = False
    return np.flatnonzero(stay)


def compose(first: "PruningPlan", second: "PruningPlan") -> "PruningPlan":
    """One plan that removes from the first model what two plans remove one after the other.

    Args:
        first: For the first model.
        second: For the model that the first plan leaves.

    Raises:
        PlanMismatchError: The second plan is for another model, or removes part of what is one node in the first.
    """
    rounds = _Rounds(first, second)
    kept = {name: rounds.left(group) for name, group in first.groups.items()}
    groups = dict(first.groups)
    for name, group in second.groups.items():
        if not rounds.covers(group):
            new = name if name not in groups else f"{name}#round"
            start = sum(own.size for own in groups.values())
            groups[new] = NodeGroup(new, group.size, tuple(map(rounds.in_first, group.slices)), start)
            kept[new] = second.kept[name]
            rounds.added[name] = new
    return replace(
        second,
        kept=kept,
        groups=groups,
        tensors=first.tensors,
        attributes={**rounds.attributes(), **_rename(second.attributes, first.attributes, rounds.added)},
        reductions=rounds.reductions(),
        information={**first.information, **{rounds.added.get(n, n): v for n, v in second.information.items()}},
        heads=first.heads,
        sensitivity=first.sensitivity,
    )


class _Rounds:
    """Positions of the smaller model as positions of the first one."""

    def __init__(self, first: "PruningPlan", second: "PruningPlan") -> None:
        self.first, self.second = first, second
        self.keep, self.again = positions_to_keep(first), positions_to_keep(second)
        self.added: dict[str, str] = {}
        for name, shape in first.tensors.items():
            left = tuple(len(self.keep.get((name, axis), range(n))) for axis, n in enumerate(shape))
            if second.tensors.get(name) != left:
                raise PlanMismatchError(
                    f"The second plan is for a model whose '{name}' has shape {second.tensors.get(name)}, and the "
                    f"first plan leaves {left}. Expected the plan of the next round."
                )

    def left(self, group: NodeGroup) -> tuple[int, ...]:
        """Nodes of a group of the first plan that both plans keep."""
        own = self.first.kept[group.name]
        gone: NDArray[np.bool_] | None = None
        for s in group.slices:
            axis = (s.tensor, s.axis)
            if axis not in self.again or not own:
                continue
            places = np.searchsorted(self._positions_of(axis), s.positions[list(own)])
            removed = ~np.isin(places, self.again[axis])
            if (removed != removed[:, :1]).any():
                raise PlanMismatchError(
                    f"The second plan removes a part of a node of group '{group.name}' of the first."
                )
            gone = removed[:, 0] if gone is None else np.logical_or(gone, removed[:, 0])
        return own if gone is None else tuple(node for node, out in zip(own, gone, strict=True) if not out)

    def covers(self, group: NodeGroup) -> bool:
        """True if the nodes of a group of the second plan are nodes of the first."""
        mine = self.in_first(group.slices[0])
        theirs = [
            s for g in self.first.groups.values() for s in g.slices if (s.tensor, s.axis) == (mine.tensor, mine.axis)
        ]
        return any(np.isin(mine.positions, s.positions).all() for s in theirs)

    def in_first(self, s: ParamSlice) -> ParamSlice:
        """A slice of the second plan, with positions in the first model."""
        return replace(s, positions=self._positions_of((s.tensor, s.axis))[s.positions])

    def attributes(self) -> dict[tuple[str, str], Size]:
        """Sizes that the first plan knows; groups that are new leave the fixed part."""
        found = dict(self.first.attributes)
        for key, size in self.second.attributes.items():
            new = {n: count for n, count in size.per_node.items() if n in self.added}
            if key in found and new:
                fixed = found[key].fixed - sum(count * self.second.groups[n].size for n, count in new.items())
                more = {self.added[n]: count for n, count in new.items()}
                found[key] = Size(fixed, {**found[key].per_node, **more})
        return found

    def reductions(self) -> tuple[Reduction, ...]:
        """Ops over axes that either plan cuts, with positions in the first model."""
        found = {(r.module, r.op, r.call, r.reads): r for r in self.first.reductions}
        for r in self.second.reductions:
            key = (r.module, r.op, r.call, r.reads)
            known = found.get(key)
            stay = np.arange(r.length) if known is None else places_to_keep(known, self.first)
            new = {self.added[n]: stay[p] for n, p in r.positions.items() if n in self.added}
            if known is not None:
                found[key] = replace(known, positions={**known.positions, **new})
            elif new:
                found[key] = replace(r, positions=new)
        return tuple(found.values())

    def _positions_of(self, axis: Axis) -> Ints:
        name, dim = axis
        return self.keep.get(axis, np.arange(self.first.tensors[name][dim]))


def _rename(
    second: Mapping[tuple[str, str], Size], first: Mapping[tuple[str, str], Size], names: Mapping[str, str]
) -> dict[tuple[str, str], Size]:
    """Sizes that only the second plan knows, of groups that are new, under their names in the composed plan.

    Sizes of other groups that the first plan does not know count parts of its nodes, such as the channels of a head.
    """
    return {
        key: Size(size.fixed, {names[n]: count for n, count in size.per_node.items()})
        for key, size in second.items()
        if key not in first and size.per_node.keys() <= names.keys()
    }
