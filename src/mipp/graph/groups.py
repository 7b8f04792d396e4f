"""The pruning graph: which nodes a model has, where each of them lives, and why others cannot be removed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.graph.axes import Reason
from mipp.graph.rules import Walk, has_rule, walk
from mipp.graph.trace import Call, Program, canonical_names, trace, working_copy

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ParamSlice:
    """Where the nodes of a group live in one axis of one parameter or buffer.

    Attributes:
        tensor: Qualified name of the tensor.
        axis: The axis that is cut.
        positions: Positions of every node, shape [nodes, positions per node].
        reads: Whether the axis is one that a weight reads its input through; masks silence these positions.
    """

    tensor: str
    axis: int
    positions: Ints
    reads: bool


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind: each can be removed by itself, always from the same tensors.

    Attributes:
        name: Path of the first module that produces the nodes.
        size: Number of nodes.
        slices: Everything a node consists of.
        first_node: Number of the group's first node when all nodes of the graph are counted through.
    """

    name: str
    size: int
    slices: tuple[ParamSlice, ...]
    first_node: int

    @property
    def producers(self) -> tuple[str, ...]:
        """Modules (or bare parameters) whose outputs the nodes are."""
        return tuple(dict.fromkeys(_owner(s.tensor) for s in self.slices if not s.reads))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Modules that read the nodes through a weight."""
        return tuple(dict.fromkeys(_owner(s.tensor) for s in self.slices if s.reads))


@dataclass(frozen=True)
class Frozen:
    """Nodes of one layer that are never removed, and why."""

    name: str
    nodes: int
    reason: str
    op: str
    source: str


@dataclass(frozen=True)
class Site:
    """An op that reads nodes through a weight.

    Attributes:
        op: Index of the op in the program.
        weight: Name of the weight ("" if it is computed), of shape [outputs, inputs per group, ...].
        bias: Name of the bias or "".
        reads: Node at every position of the weight's input axis, -1 for positions that stay.
        writes: Node at every position of the weight's output axis, -1 for positions that stay.
        groups: Number of convolution groups.
    """

    op: int
    weight: str
    bias: str
    reads: Ints
    writes: Ints
    groups: int


@dataclass(frozen=True)
class Size:
    """Length of an axis: `fixed` plus, for every group, `per_node[group]` positions per kept node."""

    fixed: int
    per_node: Mapping[str, int]


@dataclass(frozen=True)
class Work:
    """A product of axis lengths: `coefficient` x the sizes. MACs of one op, or elements of one parameter."""

    op: int
    coefficient: int
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class PruningGraph:
    """What can be removed from a model.

    Attributes:
        groups: Node groups by name, in data-flow order.
        frozen: Layers whose nodes stay, each with its reason.
        program: The traced pass, on `batch` samples.
        macs: Multiply-accumulates of the whole batch, one entry per op.
        params: Elements of every parameter.
        attributes: Module attributes that count nodes: {(module, attribute): size}.
        doubts: Groups that can be removed only if the code computes a size, with the op that raises the doubt.
    """

    groups: Mapping[str, NodeGroup]
    frozen: tuple[Frozen, ...]
    program: Program
    batch: int
    sites: tuple[Site, ...]
    macs: tuple[Work, ...]
    params: tuple[Work, ...]
    attributes: Mapping[tuple[str, str], Size]
    doubts: Mapping[str, Reason]

    @property
    def num_nodes(self) -> int:
        return sum(group.size for group in self.groups.values())

    def readers(self, group: NodeGroup) -> list[Site]:
        """The ops that read a group through a weight, in order."""
        last = group.first_node + group.size
        return [s for s in self.sites if ((s.reads >= group.first_node) & (s.reads < last)).any()]

    def keep_mask(self, kept: Mapping[str, Collection[int]]) -> NDArray[np.bool_]:
        """Whether each node of the graph stays, shape [num_nodes]; groups not named keep everything."""
        mask = np.ones(self.num_nodes, bool)
        for name, nodes in kept.items():
            group = self.groups[name]
            mask[group.first_node : group.first_node + group.size] = False
            mask[group.first_node + np.asarray(list(nodes), np.int64)] = True
        return mask


def build(model: nn.Module, call: Call, freeze: Mapping[str, Reason] | None = None) -> PruningGraph:
    """Traces a model and finds its node groups.

    Args:
        model: Any module; it is not changed. The pass runs in eval mode on a copy that shares its parameters.
        call: One call of the model.
        freeze: Globs of module names that must keep their nodes, with the reason to report.
    """
    program = trace(working_copy(model), call, has_rule)
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.modules.conv._ConvNd)}
    names = canonical_names(model)
    parameters = [(names[id(p)][0], p) for p in model.parameters()]
    graph = _assembled(walk(program, convolutions), parameters, max(call.samples, 1), freeze or {})
    aliases = [(names[id(p)][0], name) for name, p in model.named_parameters() if names[id(p)][0] != name]
    return replace(graph, groups={n: _with_aliases(g, aliases) for n, g in graph.groups.items()}) if aliases else graph


def _with_aliases(group: NodeGroup, aliases: Sequence[tuple[str, str]]) -> NodeGroup:
    """Adds the other names of tensors over the same memory, so that a model in which they are not tied is cut too."""
    more = [replace(s, tensor=other) for s in group.slices for first, other in aliases if s.tensor == first]
    return replace(group, slices=(*group.slices, *more))


def _assembled(
    w: Walk, parameters: Sequence[tuple[str, Tensor]], batch: int, freeze: Mapping[str, Reason]
) -> PruningGraph:
    produced = _slots_of(w, w.producers)
    read = _slots_of(w, [c.reads for c in w.contractions])
    for pattern, reason in freeze.items():
        for slot in produced:
            if fnmatchcase(_owner(slot[0]), pattern):
                w.atoms.freeze(w.slots[slot], reason)
    sets, reasons = _resolved(w)
    node_of_set, groups = _groups(w, sets, reasons, produced, read)
    nodes = node_of_set[sets] if len(sets) else np.empty(0, np.int64)
    owner = np.repeat(np.array([g.name for g in groups], object), [g.size for g in groups]) if groups else np.empty(0)

    def node(atoms: Tensor) -> Ints:
        index = atoms.reshape(-1).numpy()
        return np.where(index >= 0, nodes[index], -1) if len(nodes) else np.full(len(index), -1)

    def size(atoms: Tensor) -> Size:
        members = node(atoms)
        names, counts = np.unique(owner[members[members >= 0]].astype(str), return_counts=True)
        sizes = {g.name: g.size for g in groups}
        return Size(
            int((members < 0).sum()), {n: c // sizes[n] for n, c in zip(names.tolist(), counts.tolist(), strict=True)}
        )

    return PruningGraph(
        groups={g.name: g for g in groups},
        frozen=_frozen(w, sets, reasons, nodes, produced),
        program=w.program,
        batch=batch,
        sites=tuple(Site(c.op, c.weight, c.bias, node(c.reads), node(c.writes), c.groups) for c in w.contractions),
        macs=tuple(_work(t.op, t.coefficient, [size(a) for a in t.axes]) for t in w.terms),
        params=tuple(_parameter_work(name, p, w, size) for name, p in parameters),
        attributes={(a.module, a.name): size(a.atoms) for a in w.attributes},
        doubts={n: d.reason for d in w.doubts for n in np.unique(owner[_inside(node(d.atoms))].astype(str)).tolist()},
    )


def _inside(nodes: Ints) -> Ints:
    return nodes[nodes >= 0]


def _slots_of(w: Walk, atoms: Iterable[Tensor]) -> list[tuple[str, int]]:
    """Parameter axes that any of `atoms` belong to, in the order in which they were met."""
    marked = np.zeros(w.atoms.count + 1, bool)
    for a in atoms:
        marked[a.numpy()] = True
    marked[-1] = False
    return [slot for slot, own in w.slots.items() if marked[own.numpy()].any()]


def _resolved(w: Walk) -> tuple[Ints, dict[int, Reason]]:
    """Resolves the atoms; an axis that was split in two is removed by whole rows or columns of the split."""
    sets, reasons = w.atoms.resolve()
    again = False
    for plane, first, second in w.splits:
        index = plane.numpy()
        if any(_united(np.where(index < 0, -1, sets[index]), dim) for dim in (first, second)):
            continue
        w.atoms.unite_along(plane, [first], Reason("an axis with positions of a fixed size is split"))
        again = True
    return w.atoms.resolve() if again else (sets, reasons)


def _united(sets: Ints, dim: int) -> bool:
    return bool((sets == np.take(sets, [0], axis=dim)).all())


def _groups(
    w: Walk, sets: Ints, reasons: Mapping[int, Reason], produced: list[tuple[str, int]], read: list[tuple[str, int]]
) -> tuple[Ints, list[NodeGroup]]:
    """Sorts the removable sets into groups by where they live; returns the node of every set and the groups."""
    slots = list(w.slots)
    removable = _removable(w, sets, reasons)
    position = np.concatenate([np.arange(len(w.slots[s])) for s in slots]) if slots else np.empty(0, np.int64)
    slot = np.repeat(np.arange(len(slots)), [len(w.slots[s]) for s in slots])
    member = sets[np.concatenate([w.slots[s].numpy() for s in slots])] if slots else np.empty(0, np.int64)
    use = removable[member] if len(member) else np.empty(0, bool)
    position, slot, member = position[use], slot[use], member[use]
    order = np.lexsort((position, slot, member))
    position, slot, member = position[order], slot[order], member[order]
    node_of_set = np.full(int(sets.max()) + 1 if len(sets) else 0, -1)
    groups: list[NodeGroup] = []
    names: dict[str, int] = {}
    for rows in _by_signature(member, slot):
        lead = next((i for i in np.unique(slot[rows]).tolist() if slots[i] in produced), None)
        if lead is None:
            continue
        at_lead = rows[slot[rows] == lead]
        first = at_lead[np.unique(member[at_lead], return_index=True)[1]]
        ordered = member[first][np.argsort(position[first], kind="stable")]
        rank = {m: i for i, m in enumerate(ordered.tolist())}
        slices = []
        for i in np.unique(slot[rows]).tolist():
            here = rows[slot[rows] == i]
            where = np.argsort([rank[m] for m in member[here].tolist()], kind="stable")
            slices.append(
                ParamSlice(slots[i][0], slots[i][1], position[here][where].reshape(len(ordered), -1), slots[i] in read)
            )
        name = _unused(_owner(slots[lead][0]), names)
        start = sum(g.size for g in groups)
        node_of_set[ordered] = start + np.arange(len(ordered))
        groups.append(NodeGroup(name, len(ordered), tuple(slices), start))
    return node_of_set, groups


def _removable(w: Walk, sets: Ints, reasons: Mapping[int, Reason]) -> NDArray[np.bool_]:
    size = int(sets.max()) + 1 if len(sets) else 0
    is_read, is_made = np.zeros(size, bool), np.zeros(size, bool)
    for contraction in w.contractions:
        is_read[_sets_of(contraction.reads, sets)] = True
    for atoms in w.producers:
        is_made[_sets_of(atoms, sets)] = True
    removable = is_read & is_made
    removable[list(reasons)] = False
    return removable


def _sets_of(atoms: Tensor, sets: Ints) -> Ints:
    index = atoms.reshape(-1).numpy()
    chosen: Ints = sets[index[index >= 0]]
    return chosen


def _by_signature(member: Ints, slot: Ints) -> list[Ints]:
    """Rows of the sets that have the same number of positions in the same slots, in order of first appearance."""
    if not len(member):
        return []
    pairs, counts = np.unique(np.stack([member, slot]), axis=1, return_counts=True)
    signature: dict[int, list[tuple[int, int]]] = {}
    for m, s, c in zip(pairs[0].tolist(), pairs[1].tolist(), counts.tolist(), strict=True):
        signature.setdefault(m, []).append((s, c))
    number: dict[tuple[tuple[int, int], ...], int] = {}
    kind = {m: number.setdefault(tuple(sig), len(number)) for m, sig in signature.items()}
    of_row = np.array([kind[m] for m in member.tolist()])
    kinds = sorted(number.items(), key=lambda item: item[0][0])
    return [np.flatnonzero(of_row == k) for _, k in kinds]


def _frozen(
    w: Walk, sets: Ints, reasons: Mapping[int, Reason], nodes: Ints, produced: list[tuple[str, int]]
) -> tuple[Frozen, ...]:
    listed: dict[tuple[str, Reason], int] = {}
    for name, axis in produced:
        for atom in w.slots[name, axis].tolist():
            if nodes[atom] < 0:
                reason = reasons.get(int(sets[atom]), Reason("no weight reads it"))
                listed[_owner(name), reason] = listed.get((_owner(name), reason), 0) + 1
    return tuple(Frozen(name, count, r.text, r.op, r.source) for (name, r), count in listed.items())


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


def _owner(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


def _unused(name: str, names: dict[str, int]) -> str:
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}#{names[name]}"
