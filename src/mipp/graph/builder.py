"""From a walk through a traced pass to the pruning graph: atoms become nodes, nodes with the same footprint a group."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import takewhile
from math import gcd, lcm, prod

import numpy as np
import torch
from torch import Tensor, nn

from mipp.graph.axes import Ints, Reason, Sets
from mipp.graph.call import Call
from mipp.graph.findings import WalkDoubt, WalkReduction, WalkSite
from mipp.graph.grouping import Slot, Tie, group_sets, level_groups, resolve
from mipp.graph.nodes import (
    Activation,
    Counted,
    Doubt,
    Frozen,
    NodeGroup,
    PruningGraph,
    Reduction,
    Site,
    Size,
    Work,
    companions,
    owner,
)
from mipp.graph.trace import trace
from mipp.graph.tracker import Walk, walk
from mipp.graph.unused import Unused, find_unused, list_unused, trace_training
from mipp.modules.adapters import adapter_of
from mipp.modules.copies import canonical_names, working_copy

_UNREAD = "no weight reads it"
_SINGLE = "has a single output"


@dataclass(frozen=True)
class Findings:
    """The results of trial cuts about the sizes in a model's code.

    Attributes:
        rejected: Numbers of doubts whose nodes stay, and why.
        attributes: Module attributes that hold the size of a doubt, and how they count it.
        ties: Atoms that go together, because the code writes the one size where the other is meant.
        multiples: The number of nodes that groups can lose at a time, where no rule knows it.
        compared: Atoms whose number module attributes hold that the code compares with a size.
    """

    rejected: Mapping[int, Reason] = field(default_factory=dict)
    attributes: Mapping[tuple[str, str], Counted] = field(default_factory=dict)
    ties: tuple[Tie, ...] = ()
    multiples: Mapping[str, int] = field(default_factory=dict)
    compared: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)


class Draft:
    """The nodes of a model as its traced pass shows them, before sizes in its code are settled.

    Args:
        model: Any module; it is not changed. The pass runs in eval mode on a copy.
        call: One call of the model.
    """

    def __init__(self, model: nn.Module, call: Call) -> None:
        program = trace(working_copy(model), call)
        self._walk = walk(program, _counting(model))
        self._batch = max(call.samples, 1)
        names = canonical_names(model)
        self._parameters = [(names[id(p)][0], p) for p in model.parameters()]
        seen = {tensor for tensor, _ in self._walk.slots}
        unused = find_unused(model, seen)
        self._unused = list_unused(model, unused)
        self._doubted: list[tuple[Tensor, Reason]] = []
        self._may_run = self._follow_training(model, call, unused) if unused else []
        self._produced, self._read = (_slots_of(self._walk, a) for a in (self._walk.producers, self._walk.readers))
        self._aliases = [(names[id(p)][0], n) for n, p in model.named_parameters() if names[id(p)][0] != n]
        self._owners: dict[str, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._owners.setdefault(names[id(parameter)][0], []).append(owner(name))

    def _follow_training(self, model: nn.Module, call: Call, unused: Unused) -> list[str]:
        """Adds what a pass in train mode shows about the parameters that only it reads.

        Returns:
            What may run in passes that were not seen: where values decide, or where the one in train mode raised.
        """
        program = trace_training(model, call)
        read = {value.name for value in program.values if value.name} if program is not None else set()
        if program is not None and any(not read.isdisjoint(names) for names in unused.values()):
            settled = {(doubt.reason, doubt.size) for doubt in self._walk.doubts}
            found = walk(program, self._walk.counting, self._walk)
            self._doubted = [(d.atoms, d.reason) for d in found.doubts if (d.reason, d.size) not in settled]
        if program is not None and not self._walk.program.guards:
            return []
        return [key for key, names in unused.items() if read.isdisjoint(names)]

    def graph(self, freeze: Mapping[str, Reason] | None = None, findings: Findings | None = None) -> PruningGraph:
        """The pruning graph.

        Args:
            freeze: Globs of module names that must keep their nodes, with the reason to report.
            findings: What trial cuts have shown.
        """
        w, findings = self._walk, findings or Findings()
        stay = [(w.doubts[i].atoms, r) for i, r in sorted(findings.rejected.items()) if not w.doubts[i].inferred]
        stay += [*self._doubted, *self._atoms_by_name(freeze or {})]
        nodes = self._nodes(stay, findings.ties)
        shared = [*self._nodes_of_unused(nodes), *nodes.uneven_axes(), *nodes.unaligned_axes()]
        nodes = self._nodes([*stay, *shared], findings.ties) if shared else nodes
        nodes = nodes.align(findings.multiples)
        aliased = {n: _with_aliases(g, self._aliases) for n, g in nodes.groups.items()}
        frozen = nodes.frozen()
        listed = {f.name for f in frozen}.union(s.tensor for g in nodes.groups.values() for s in g.slices)
        listed |= {owner(name) for name in listed if name in self._owners}
        frozen += tuple(f for f in self._unused if f.name not in listed)
        attributes = {(a.module, a.name): nodes.size(a.atoms) for a in w.attributes}
        found = {key: nodes.size(atoms) for key, atoms in findings.compared.items()}
        found |= {key: c.of(nodes.size(w.doubts[c.number].atoms)) for key, c in findings.attributes.items()}
        return PruningGraph(
            groups=aliased,
            frozen=(*frozen, *self._rest(nodes, frozen)),
            program=w.program,
            batch=self._batch,
            sites=tuple(nodes.site(c) for c in w.sites),
            macs=tuple(_work(t.op, t.coefficient, [nodes.size(a) for a in t.axes]) for t in w.terms),
            params=tuple(_parameter_work(name, p, w, nodes.size) for name, p in self._parameters),
            activations=tuple(_activations(w, nodes.size)),
            attributes=attributes | found,
            reductions=tuple(r for reduction in w.reductions for r in nodes.reduction(reduction)),
            doubts=tuple(d for i, doubt in enumerate(w.doubts) for d in nodes.doubt(i, doubt)),
        )

    def _rest(self, nodes: "_Nodes", frozen: Sequence[Frozen]) -> list[Frozen]:
        """Layers with weights that neither a group nor the list of what is frozen names."""
        named = {f.name for f in frozen}.union(*({*g.producers, *g.consumers} for g in nodes.groups.values()))
        found: dict[str, Frozen] = {}
        for name, parameter in self._parameters:
            if parameter.ndim > 1 and named.isdisjoint([name, *self._owners.get(name, [owner(name)])]):
                single = len(parameter) == 1 and any(c.weight == name for c in self._walk.sites)
                reason = Reason(_SINGLE) if single else nodes.reason_of(name) or Reason(_UNREAD)
                found.setdefault(
                    owner(name), Frozen(owner(name), len(parameter), reason.text, reason.op, reason.source)
                )
        return list(found.values())

    def atoms_of(self, group: NodeGroup) -> Tensor:
        """One atom of every node of a group, shape [nodes]."""
        first = group.slices[0]
        return self._walk.slots[first.tensor, first.axis][torch.from_numpy(first.positions[:, 0])]

    def axes_of(self, group: NodeGroup) -> Mapping[int, Tensor]:
        """The atoms along axes that consist of the nodes of a group, by their number."""
        axes = [self._walk.slots[s.tensor, s.axis] for s in group.slices if (s.tensor, s.axis) in self._walk.slots]
        whole = {s.positions.size for s in group.slices}
        return {len(atoms): atoms for atoms in axes if len(atoms) in whole}

    def _nodes(self, stay: Sequence[tuple[Tensor, Reason]], ties: Sequence[Tie]) -> "_Nodes":
        sets = resolve(self._walk, stay, ties)
        node_of_set, groups = group_sets(self._walk, sets, self._produced, self._read)
        nodes = _Nodes(self._walk, sets, self._produced, {g.name: g for g in groups}, node_of_set)
        pairs = self._walk.levels
        uneven, level = level_groups(nodes.groups, [(nodes.size(left), nodes.size(right)) for left, right in pairs])
        if uneven:  # what is tied is even
            return self._nodes(stay, [*ties, *(pairs[number] for number in uneven)])
        return replace(nodes, groups=level)

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
        """The nodes that layers which did not run may read or write, where nothing shows whether they do.

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
    found = {path: adapter_of(module).counting for path, module in model.named_modules()}
    return {path: name for path, name in found.items() if name}


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

    def site(self, c: WalkSite) -> Site:
        rows = {dim: nodes for dim, atoms in enumerate(c.rows) if ((nodes := self.at(atoms)) >= 0).any()}
        return Site(c.op, c.weight, c.bias, self.at(c.reads), self.at(c.writes), c.groups, c.reads_axis, rows)

    def doubt(self, number: int, doubt: WalkDoubt) -> list[Doubt]:
        count = self.size(doubt.atoms)
        op = self.walk.program.ops[doubt.op]
        return [Doubt(number, op.holder or op.module, doubt.size, count, doubt.reason)] if count.per_node else []

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

    def unaligned_axes(self) -> list[tuple[Tensor, Reason]]:
        """Axes of which an op takes certain multiples only, and that the nodes of one group by itself cannot keep."""
        found = []
        for a in self.walk.alignments:
            size = self.size(a.atoms)
            own = [self.groups[name].size * count for name, count in size.per_node.items()]
            if any(length % a.multiple for length in own):
                op = self.walk.program.ops[a.op]
                reason = Reason(f"{op.name} takes rows in multiples of {a.multiple}", op.name, op.source)
                found.append((a.atoms, reason))
        return found

    def align(self, found: Mapping[str, int]) -> "_Nodes":
        """The same nodes, in groups that know which multiples the ops take that run over them.

        Args:
            found: Multiples that trials have shown, by group.
        """
        multiples = {name: multiple for name, multiple in found.items() if name in self.groups}
        for a in self.walk.alignments:
            for name, count in self.size(a.atoms).per_node.items():
                multiples[name] = lcm(multiples.get(name, 1), a.multiple // gcd(a.multiple, count))
        if not multiples:
            return self
        for name in list(multiples):
            others = companions(self.groups, name)
            multiples |= dict.fromkeys(others, lcm(*(multiples.get(other, 1) for other in others)))
        groups = {name: replace(g, multiple=multiples.get(name, 1)) for name, g in self.groups.items()}
        return replace(self, groups=groups)

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

    def reason_of(self, tensor: str) -> Reason | None:
        """The reason why the positions of a parameter stay, of the first of its axes that has one."""
        for slot, atoms in self.walk.slots.items():
            found: Ints = (
                self.sets.reason_of[self.sets.of(atoms.numpy())] if slot[0] == tensor else np.empty(0, np.int64)
            )
            if (found >= 0).any():
                return self.sets.reasons[int(found.max())]
        return None

    def frozen(self) -> tuple[Frozen, ...]:
        """The nodes that are produced and stay, by module and reason."""
        listed: dict[tuple[str, Reason], int] = {}
        for slot in self.produced:
            sets = self.sets.of(self.walk.slots[slot].numpy())
            reasons, counts = np.unique(self.sets.reason_of[sets[self.node_of_set[sets] < 0]], return_counts=True)
            for index, count in zip(reasons.tolist(), counts.tolist(), strict=True):
                reason = self.sets.reasons[index] if index >= 0 else Reason(_UNREAD)
                key = owner(slot[0]), reason
                listed[key] = listed.get(key, 0) + count
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


def _activations(w: Walk, size: Callable[[Tensor], Size]) -> Iterable[Activation]:
    """The values that the pass holds, and how long; many share one plane, as those of all steps of a recurrence do."""
    known: dict[tuple[int, ...], Size] = {}

    def sizes_of(plane: Tensor) -> Size:
        memory = plane.data_ptr(), *plane.shape, *plane.stride()
        if memory not in known:
            known[memory] = size(plane)
        return known[memory]

    for index, span in w.activations.items():
        value, planes = w.program.values[index], w.planes.get(index, ())
        free = [n for dim, n in enumerate(value.shape) if not any(plane.shape[dim] > 1 for plane in planes)]
        sizes = [sizes_of(plane) for plane in planes if plane.numel() > 1]
        yield Activation(_work(value.producer, value.dtype.itemsize * prod(free), sizes), *span)
