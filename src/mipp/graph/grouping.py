"""Sets of united atoms sorted into groups: nodes of one kind are cut from the same axes of the same tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mipp.graph.axes import Ints, Reason, Sets, disjoint
from mipp.graph.nodes import NodeGroup, ParamSlice, Size, owner
from mipp.graph.tracker import Walk

Slot = tuple[str, int]
Tie = tuple[Tensor, Tensor]


def resolve(w: Walk, stay: Sequence[tuple[Tensor, Reason]], ties: Sequence[Tie]) -> Sets:
    """Resolves the atoms; an axis that was split in two is removed by whole rows or columns of the split."""
    w.atoms.settle()
    sets, waiting = w.atoms.resolve(stay, ties), w.splits
    while waiting := [split for split in waiting if not _is_decided(sets, *split)]:
        chosen = disjoint([plane for plane, _, _ in waiting], sets)
        for plane, first, _ in (waiting[i] for i in chosen):
            w.atoms.unite_along(plane, [first], Reason("an axis with positions of a fixed size is split"))
        waiting = [split for i, split in enumerate(waiting) if i not in chosen]
        sets = w.atoms.resolve(stay, ties)
    return sets


def _is_decided(sets: Sets, plane: Tensor, first: int, second: int) -> bool:
    """True if other ops have united whole rows or columns of a plane, or if nothing of it can go."""
    at = sets.at(plane.numpy())
    stays = (at < 0) | (sets.reason_of[at] >= 0)
    return _is_united(at, first) or _is_united(at, second) or bool(stays.all())


def _is_united(sets: Ints, dim: int) -> bool:
    return bool((sets == np.take(sets, [0], axis=dim)).all())


def group_sets(w: Walk, sets: Sets, produced: Sequence[Slot], read: Sequence[Slot]) -> tuple[Ints, list[NodeGroup]]:
    """Sorts the removable sets into groups by where they live; returns the node of every set and the groups."""
    slots = list(w.slots)
    is_produced, is_read = (np.array([slot in some for slot in slots], bool) for some in (set(produced), set(read)))
    position, slot, member = _rows(w, _removable(w, sets), sets)
    node_of_set = np.full(len(sets.reason_of), -1)
    rank = np.zeros(len(sets.reason_of), np.int64)
    groups: list[NodeGroup] = []
    names: dict[str, int] = {}
    for rows in _by_footprint(member, slot):
        made = rows[is_produced[slot[rows]]]
        if not len(made):
            continue
        lead = slot[made].min()
        at_lead = made[slot[made] == lead]
        first = at_lead[np.unique(member[at_lead], return_index=True)[1]]
        ordered = member[first][np.argsort(position[first], kind="stable")]
        rank[ordered] = np.arange(len(ordered))
        rows = rows[np.lexsort((position[rows], rank[member[rows]], slot[rows]))]
        slices = []
        for part in np.split(rows, np.flatnonzero(np.diff(slot[rows])) + 1):
            number = slot[part[0]]
            tensor, axis = slots[number]
            slices.append(ParamSlice(tensor, axis, position[part].reshape(len(ordered), -1), bool(is_read[number])))
        start = sum(g.size for g in groups)
        node_of_set[ordered] = start + np.arange(len(ordered))
        groups.append(NodeGroup(_new_name(owner(slots[lead][0]), names), len(ordered), tuple(slices), start))
    return node_of_set, groups


def level_groups(
    groups: Mapping[str, NodeGroup], pairs: Sequence[tuple[Size, Size]]
) -> tuple[list[int], dict[str, NodeGroup]]:
    """Groups that know which others stay as wide, because axes that they lie along stay equally long.

    Args:
        groups: The groups.
        pairs: The lengths of two axes that have to be equal, by the widths of the groups.

    Returns:
        Numbers of the pairs that no such groups keep equal; and the groups.
    """
    uneven: list[int] = []
    lead = {name: name for name in groups}
    for number, (left, right) in enumerate(pairs):
        if left == right:
            continue
        first, second = (next(iter(size.per_node), "") for size in (left, right))
        if not first or not second or groups[first].size != groups[second].size or not _differ_in_name(left, right):
            uneven.append(number)
            continue
        joined, other = lead[first], lead[second]
        lead = {name: joined if own == other else own for name, own in lead.items()}
    shared = {own for name, own in lead.items() if own != name}
    return uneven, {n: replace(g, alike=lead[n]) if lead[n] in shared else g for n, g in groups.items()}


def _differ_in_name(left: Size, right: Size) -> bool:
    """True if two lengths are the same functions, each of the width of one group."""
    return (
        left.fixed == right.fixed
        and len(left.per_node) == 1
        and [*left.per_node.values()] == [*right.per_node.values()]
    )


def _rows(w: Walk, removable: NDArray[np.bool_], sets: Sets) -> tuple[Ints, Ints, Ints]:
    """Position, slot and set of every removable position of a parameter axis, sorted by set, slot and position."""
    if not w.slots:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    lengths = [len(own) for own in w.slots.values()]
    position = np.concatenate([np.arange(n) for n in lengths])
    slot = np.repeat(np.arange(len(lengths)), lengths)
    member = sets.of_atom[np.concatenate([own.numpy() for own in w.slots.values()])]
    use = removable[member]
    position, slot, member = position[use], slot[use], member[use]
    order = np.lexsort((position, slot, member))
    return position[order], slot[order], member[order]


def _removable(w: Walk, sets: Sets) -> NDArray[np.bool_]:
    is_read, is_made = np.zeros(len(sets.reason_of), bool), np.zeros(len(sets.reason_of), bool)
    for reads in w.readers:
        is_read[sets.of(reads.reshape(-1).numpy())] = True
    for made in w.producers:
        is_made[sets.of(made.reshape(-1).numpy())] = True
    removable: NDArray[np.bool_] = is_read & is_made & (sets.reason_of < 0)
    return removable


def _by_footprint(member: Ints, slot: Ints) -> list[Ints]:
    """Rows of the sets with the same number of positions in the same slots, in order of first appearance.

    Rows are sorted by set and slot. A footprint is known by a sum of random numbers, one per (slot, count).
    """
    if not len(member):
        return []
    starts = np.flatnonzero(np.r_[True, (np.diff(member) != 0) | (np.diff(slot) != 0)])
    counts = np.diff(np.r_[starts, len(member)])
    kinds, kind = np.unique(slot[starts] * (counts.max() + 1) + counts, return_inverse=True)
    keys = np.random.default_rng(0).integers(1 << 63, size=len(kinds), dtype=np.uint64)
    heads = np.flatnonzero(np.r_[True, np.diff(member[starts]) != 0])
    prints = np.add.reduceat(keys[kind], heads)
    first, of_set = np.unique(prints, return_index=True, return_inverse=True)[1:]
    of_row = np.repeat(of_set, np.diff(np.r_[starts[heads], len(member)]))
    leads = heads[first]
    rows = np.split(np.argsort(of_row, kind="stable"), np.cumsum(np.bincount(of_row))[:-1])
    return [rows[k] for k in np.lexsort((first, counts[leads], slot[starts[leads]])).tolist()]


def _new_name(name: str, names: dict[str, int]) -> str:
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}#{names[name]}"
