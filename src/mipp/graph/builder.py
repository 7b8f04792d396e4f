"""From a walk through a traced pass to the pruning graph: atoms become nodes, nodes with the same footprint a group."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.graph.axes import Ints, Reason, Sets
from mipp.graph.nodes import Doubt, Frozen, NodeGroup, ParamSlice, PruningGraph, Reduction, Site, Size, Work, owner
from mipp.graph.program import Call
from mipp.graph.rules import has_rule, walk
from mipp.graph.trace import trace
from mipp.graph.tracker import Contraction, Walk
from mipp.graph.tracker import Doubt as WalkDoubt
from mipp.graph.tracker import Reduction as WalkReduction
from mipp.graph.unused import find_unused, list_unused, read_in_training
from mipp.modules.copies import canonical_names, working_copy

Slot = tuple[str, int]
Settled = Mapping[tuple[str, str], int]


class Draft:
    """The nodes of a model as its traced pass shows them, before sizes in its code are settled.

    Args:
        model: Any module; it is not changed. The pass runs in eval mode on a copy.
        call: One call of the model.
    """

    def __init__(self, model: nn.Module, call: Call) -> None:
        program = trace(working_copy(model), call, has_rule)
        self._walk = walk(program, _counting(model))
        self._produced, self._read = (_slots_of(self._walk, a) for a in (self._walk.producers, self._walk.readers))
        self._batch = max(call.samples, 1)
        names = canonical_names(model)
        self._parameters = [(names[id(p)][0], p) for p in model.parameters()]
        seen = {tensor for tensor, _ in self._walk.slots}
        unused = find_unused(model, seen)
        self._unused = list_unused(model, unused)
        self._may_run = list(unused) if program.guards or not unused else read_in_training(model, call, unused)
        self._aliases = [(names[id(p)][0], n) for n, p in model.named_parameters() if names[id(p)][0] != n]
        self._owners: dict[str, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._owners.setdefault(names[id(parameter)][0], []).append(owner(name))

    def graph(
        self, freeze: Mapping[str, Reason] | None = None, rejected: Collection[int] = (), settled: Settled | None = None
    ) -> PruningGraph:
        """The pruning graph.

        Args:
            freeze: Globs of module names that must keep their nodes, with the reason to report.
            rejected: Numbers of doubts whose nodes stay.
            settled: Module attributes that hold the size of a doubt, with its number.
        """
        w, settled = self._walk, settled or {}
        stay = [(w.doubts[i].atoms, w.doubts[i].reason) for i in sorted(rejected)]
        stay += self._atoms_by_name(freeze or {})
        nodes = self._nodes(stay)
        shared = [*self._nodes_of_unused(nodes), *nodes.uneven_axes()]
        nodes = self._nodes([*stay, *shared]) if shared else nodes
        aliased = {n: _with_aliases(g, self._aliases) for n, g in nodes.groups.items()}
        attributes = {(a.module, a.name): nodes.size(a.atoms) for a in w.attributes}
        return PruningGraph(
            groups=aliased,
            frozen=(*nodes.frozen(), *self._unused),
            program=w.program,
            batch=self._batch,
            sites=tuple(nodes.site(c) for c in w.contractions),
            macs=tuple(_work(t.op, t.coefficient, [nodes.size(a) for a in t.axes]) for t in w.terms),
            params=tuple(_parameter_work(name, p, w, nodes.size) for name, p in self._parameters),
            attributes=attributes | {key: nodes.size(w.doubts[i].atoms) for key, i in settled.items()},
            reductions=tuple(r for reduction in w.reductions for r in nodes.reduction(reduction)),
            doubts=tuple(d for i, doubt in enumerate(w.doubts) for d in nodes.doubt(i, doubt)),
        )

    def _nodes(self, stay: Sequence[tuple[Tensor, Reason]]) -> "_Nodes":
        sets = _resolve(self._walk, stay)
        node_of_set, groups = _groups(self._walk, sets, self._produced, self._read)
        return _Nodes(self._walk, sets, self._produced, {g.name: g for g in groups}, node_of_set)

    def _atoms_by_name(self, freeze: Mapping[str, Reason]) -> list[tuple[Tensor, Reason]]:
        """Atoms that modules produce one of whose names matches; what a norm or the like scales counts as its own."""
        produced, read = set(self._produced), set(self._read)
        producing = {name for slot in produced for name in self._names(slot)}
        own = [
            (slot, name)
            for slot in self._walk.slots
            for name in self._names(slot)
            if slot in produced or (name not in producing and slot not in read)
        ]
        found = {slot: reason for pattern, reason in freeze.items() for slot, name in own if fnmatchcase(name, pattern)}
        return [(self._walk.slots[slot], reason) for slot, reason in found.items()]

    def _names(self, slot: Slot) -> list[str]:
        """The modules that hold a parameter."""
        return self._owners.get(slot[0], [owner(slot[0])])

    def _nodes_of_unused(self, nodes: "_Nodes") -> list[tuple[Tensor, Reason]]:
        """The nodes that layers which did not run may read or write, where values or the mode decide that they run.

        Those inside of a module all of which ran are safe.
        """
        if not self._may_run:
            return []
        reason = Reason(f"{', '.join(self._may_run[:3])} did not run, and may share these nodes")
        return [
            (self._walk.slots[s.tensor, s.axis], reason)
            for group in nodes.groups.values()
            if any(name.startswith(_around(group)) for name in self._may_run)
            for s in group.slices
        ]


def _around(group: NodeGroup) -> str:
    """Path of the innermost module that holds everything a group consists of, with a dot behind it."""
    paths = [owner(s.tensor).split(".") for s in group.slices]
    common = takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return "".join(f"{names[0]}." for names in common)


def _counting(model: nn.Module) -> dict[str, str]:
    kinds: tuple[tuple[type[nn.Module], str], ...] = (
        (nn.modules.conv._ConvNd, "groups"),
        (nn.GroupNorm, "num_groups"),
        (nn.modules.instancenorm._InstanceNorm, "num_features"),
    )
    return {path: name for path, m in model.named_modules() for kind, name in kinds if isinstance(m, kind)}


def _with_aliases(group: NodeGroup, aliases: Sequence[tuple[str, str]]) -> NodeGroup:
    """Adds the other names of tensors over the same memory, so that a model in which they are not tied is cut too."""
    more = [replace(s, tensor=other) for s in group.slices for first, other in aliases if s.tensor == first]
    return replace(group, slices=(*group.slices, *more)) if more else group


def _slots_of(w: Walk, atoms: Iterable[Tensor]) -> list[Slot]:
    """Parameter axes that any of `atoms` belong to, in the order in which they were met."""
    marked = np.zeros(w.atoms.count + 1, bool)
    for a in atoms:
        marked[a.numpy()] = True
    marked[-1] = False
    return [slot for slot, own in w.slots.items() if marked[own.numpy()].any()]


@dataclass(frozen=True)
class _Nodes:
    """Sets of atoms as nodes.

    Attributes:
        produced: Parameter axes along which nodes are produced.
        node_of_set: Node of every set, -1 if it stays.
    """

    walk: Walk
    sets: Sets
    produced: list[Slot]
    groups: Mapping[str, NodeGroup]
    node_of_set: Ints

    @cached_property
    def _names(self) -> list[str]:
        return list(self.groups)

    @cached_property
    def _sizes(self) -> Ints:
        return np.array([g.size for g in self.groups.values()], np.int64)

    @cached_property
    def _group_of_node(self) -> Ints:
        return np.repeat(np.arange(len(self.groups)), self._sizes)

    def at(self, atoms: Tensor) -> Ints:
        """The node at every position, -1 where it stays; shape [positions]."""
        sets = self.sets.at(atoms.reshape(-1).numpy())
        return np.where(sets < 0, -1, self.node_of_set[sets]) if len(self.node_of_set) else np.full(len(sets), -1)

    def size(self, atoms: Tensor) -> Size:
        """The number of positions that stay, by the widths; positions that are all one node keep their number."""
        nodes = self.at(atoms)
        inside = nodes[nodes >= 0]
        numbers, counts = np.unique(self._group_of_node[inside], return_counts=True)
        sizes = {self._names[n]: int(c) for n, c in zip(numbers.tolist(), counts.tolist(), strict=True)}
        if len(inside) == len(nodes) > 1 and (inside == inside[0]).all() and self.groups[next(iter(sizes))].size > 1:
            return Size(len(nodes), {})
        return Size(len(nodes) - len(inside), {n: c // self.groups[n].size for n, c in sizes.items()})

    def site(self, c: Contraction) -> Site:
        rows = {dim: nodes for dim, atoms in enumerate(c.rows) if ((nodes := self.at(atoms)) >= 0).any()}
        return Site(c.op, c.weight, c.bias, self.at(c.reads), self.at(c.writes), c.groups, c.reads_axis, rows)

    def doubt(self, number: int, doubt: WalkDoubt) -> list[Doubt]:
        count = self.size(doubt.atoms)
        module = self.walk.program.ops[doubt.op].module
        return [Doubt(number, module, doubt.size, count, doubt.reason)] if count.per_node else []

    def uneven_axes(self) -> list[tuple[Tensor, Reason]]:
        """Axes that ops run over and on which nodes of one group have different numbers of positions."""
        found = []
        for reduction in self.walk.reductions:
            nodes = self.at(reduction.reads[0][2])
            present, counts = np.unique(nodes[nodes >= 0], return_counts=True)
            groups, first, own = np.unique(self._group_of_node[present], return_index=True, return_counts=True)
            if (own < self._sizes[groups]).any() or (counts != counts[first].repeat(own)).any():
                op = self.walk.program.ops[reduction.op]
                reason = Reason(f"{op.name} runs over some of the nodes", op.name, op.source)
                found.append((reduction.reads[0][2], reason))
        return found

    def reduction(self, found: WalkReduction) -> list[Reduction]:
        nodes = self.at(found.reads[0][2])
        positions = {}
        for number in np.unique(self._group_of_node[nodes[nodes >= 0]]).tolist():
            group = self.groups[self._names[number]]
            positions[group.name] = group.places(nodes)
        op = self.walk.program.ops[found.op]
        reads = tuple((number, dim) for number, dim, _ in found.reads)
        key = op.module, op.name.rstrip("_"), self._calls[op.index]
        return [Reduction(*key, len(nodes), positions, reads, found.writes)] if positions else []

    @cached_property
    def _calls(self) -> list[int]:
        """For every op, how many of the same name its module called before."""
        seen: dict[tuple[str, str], int] = {}
        calls = []
        for op in self.walk.program.ops:
            key = op.module, op.name.rstrip("_")
            calls.append(seen.get(key, 0))
            seen[key] = calls[-1] + 1
        return calls

    def frozen(self) -> tuple[Frozen, ...]:
        """The nodes that are produced and stay, by module and reason."""
        listed: dict[tuple[str, Reason], int] = {}
        for slot in self.produced:
            sets = self.sets.of(self.walk.slots[slot].numpy())
            reasons, counts = np.unique(self.sets.reason_of[sets[self.node_of_set[sets] < 0]], return_counts=True)
            for index, count in zip(reasons.tolist(), counts.tolist(), strict=True):
                reason = self.sets.reasons[index] if index >= 0 else Reason("no weight reads it")
                key = owner(slot[0]), reason
                listed[key] = listed.get(key, 0) + count
        return tuple(Frozen(name, count, r.text, r.op, r.source) for (name, r), count in listed.items())


def _resolve(w: Walk, stay: Sequence[tuple[Tensor, Reason]]) -> Sets:
    """Resolves the atoms; an axis that was split in two is removed by whole rows or columns of the split."""
    w.atoms.settle(choose=False)
    sets = w.atoms.resolve(stay)
    again = False
    for plane, first, second in w.splits:
        at = sets.at(plane.numpy())
        if any(_is_united(at, dim) for dim in (first, second)) or _stays(sets, at):
            continue
        w.atoms.unite_along(plane, [first], Reason("an axis with positions of a fixed size is split"))
        again = True
    again = w.atoms.settle(choose=True) or again
    return w.atoms.resolve(stay) if again else sets


def _is_united(sets: Ints, dim: int) -> bool:
    return bool((sets == np.take(sets, [0], axis=dim)).all())


def _stays(sets: Sets, at: Ints) -> bool:
    return bool(((at < 0) | (sets.reason_of[at] >= 0)).all())


def _groups(w: Walk, sets: Sets, produced: Sequence[Slot], read: Sequence[Slot]) -> tuple[Ints, list[NodeGroup]]:
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


def _work(op: int, coefficient: int, sizes: list[Size]) -> Work:
    for s in sizes:
        if not s.per_node:
            coefficient *= s.fixed
    return Work(op, coefficient, tuple(s for s in sizes if s.per_node))


def _parameter_work(name: str, parameter: Tensor, w: Walk, size: Callable[[Tensor], Size]) -> Work:
    sizes = [
        size(w.slots[name, axis]) if (name, axis) in w.slots else Size(length, {})
        for axis, length in enumerate(parameter.shape)
    ]
    return _work(-1, 1, sizes)


def _new_name(name: str, names: dict[str, int]) -> str:
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}#{names[name]}"
