"""A walk through a traced pass, op by op: what the rules are given, and what they find.

A rule takes the op and the walk and returns the planes of each result. An op without a rule freezes what it touches.
The rules themselves are in `mipp.graph.rules`; to add one, see CONTRIBUTING.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from mipp.graph.axes import FIXED, Atoms, Planes, Reason, along, merge, varying
from mipp.graph.findings import Alignment, Attribute, Term, WalkDoubt, WalkReduction, WalkSite
from mipp.graph.program import Op, Program, Ref
from mipp.graph.registry import rule_of

_RUN_ON_ANY_LENGTH = (
    "select",
    "slice",
    "permute",
    "transpose",
    "t",
    "movedim",
    "unsqueeze",
    "flatten",
    "detach",
    "alias",
)


@dataclass
class Walk:
    """The state of a walk through a program: planes, unions and frozen atoms that the rules found.

    `counting` names, by path, the attribute of a standard module that counts nodes and cannot be read off its tensors;
    `unread` are ops of whose results nothing but the shape is read. `levels` are pairs of axes that stay equally long;
    `slices` are, by value, the planes of its slices along a dimension, where they have planes of their own.
    """

    program: Program
    counting: Mapping[str, str] = field(default_factory=dict)
    atoms: Atoms = field(default_factory=Atoms)
    planes: dict[int, Planes] = field(default_factory=dict)
    slots: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    sites: list[WalkSite] = field(default_factory=list)
    producers: list[Tensor] = field(default_factory=list)
    readers: list[Tensor] = field(default_factory=list)
    reductions: list[WalkReduction] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    doubts: list[WalkDoubt] = field(default_factory=list)
    alignments: list[Alignment] = field(default_factory=list)
    splits: list[tuple[Tensor, int, int]] = field(default_factory=list)
    levels: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    slices: dict[int, tuple[int, Sequence[Planes]]] = field(default_factory=dict)
    weights: set[int] = field(default_factory=set)
    unread: set[int] = field(default_factory=set)
    lost: dict[int, Reason] = field(default_factory=dict)
    parts: dict[tuple[int, int], list[tuple[int, int, Tensor, Reason]]] = field(default_factory=dict)

    @cached_property
    def activations(self) -> dict[int, tuple[int, int]]:
        """Inputs and results with memory of their own that depend on inputs: the ops during which each is held."""
        return {i: span for i, span in self.program.lifetimes.items() if i not in self.weights}

    def shape(self, ref: Ref) -> tuple[int, ...]:
        return self.program.values[ref.index].shape

    def of(self, ref: Ref) -> Planes:
        """Planes of a value; a parameter or buffer gets fresh atoms for each axis when first met."""
        if ref.index not in self.planes:
            value = self.program.values[ref.index]
            if value.origin in ("parameter", "buffer"):
                self.planes[ref.index] = tuple(
                    self._slot(value.name, axis, size, len(value.shape))
                    for axis, size in enumerate(value.shape)
                    if size > 1
                )
            else:
                self.planes[ref.index] = ()
        return self.planes[ref.index]

    def axis(self, ref: Ref, dim: int) -> Tensor:
        """Atom of every position along one dimension, shape [size]; `FIXED` where nothing is known."""
        dim %= max(len(self.shape(ref)), 1)
        plane = along(self.of(ref), [dim])
        if plane is None or varying(plane) != (dim,):
            return torch.full((self.shape(ref)[dim],), FIXED)
        return plane.reshape(-1)

    def freeze(self, planes: Planes, reason: Reason) -> None:
        for plane in planes:
            self.atoms.freeze(plane, reason)

    def rows(self, ref: Ref, dims: Sequence[int], reason: Reason) -> Planes:
        """The planes of a value with the length of `dims` kept, as they vary along the other dimensions."""
        return self.hold_planes(self.of(ref), [d % len(self.shape(ref)) for d in dims], reason)

    def hold_planes(self, planes: Planes, dims: Sequence[int], reason: Reason) -> Planes:
        """Planes with the length of `dims` kept, as they vary along the other dimensions."""
        kept = []
        for plane in planes:
            self.atoms.hold(plane, dims, reason)
            for d in dims:
                plane = plane.narrow(d, 0, min(1, plane.shape[d]))
            kept.append(plane)
        return tuple(p for p in kept if varying(p))

    def merge(self, op: Op, operands: Sequence[tuple[Planes, tuple[int, ...]]]) -> Planes:
        """Planes of the result of an op whose operands, each with its shape, meet position by position."""
        return merge(operands, self.atoms, Reason(f"{op.name} meets positions of a fixed size", op.name, op.source))

    def elastic(self, op: Op, shape: Sequence[int], dims: Sequence[int], sizes: str) -> Planes:
        """Planes along dimensions of which any position can go, provided that the code computes how many there are."""
        planes = []
        for dim in dims:
            atoms = self.atoms.elastic(shape[dim])
            planes.append(atoms.reshape([-1 if d == dim else 1 for d in range(len(shape))]))
            self.doubts.append(WalkDoubt(op.index, shape[dim], atoms, Reason(f"{op.name} {sizes}", op.name, op.source)))
        return tuple(planes)

    def is_weight(self, ref: Ref) -> bool:
        """True if a value is computed from nothing but parameters, buffers and constants."""
        value = self.program.values[ref.index]
        return ref.index in self.weights if value.producer >= 0 else value.origin != "input"

    def _slot(self, name: str, axis: int, size: int, ndim: int) -> Tensor:
        if (name, axis) not in self.slots:
            self.slots[name, axis] = self.atoms.fresh(size)
        return self.slots[name, axis].reshape([size if d == axis else 1 for d in range(ndim)])


def walk(program: Program, counting: Mapping[str, str], before: Walk | None = None) -> Walk:
    """Applies the rules to a program, op by op.

    Args:
        program: A traced pass.
        counting: See `Walk`.
        before: A walk through another pass of the same model: what is found about its parameters is added to it.
    """
    found = Walk(program, counting, unread=_unread(program))
    if before is not None:
        found.atoms, found.slots, found.splits = before.atoms, before.slots, before.splits
        found.levels = before.levels
        found.producers, found.readers, found.attributes = before.producers, before.readers, before.attributes
    for op in program.ops:
        if op.index in found.unread and op.name != "select":
            continue
        apply_rule = rule_of(op.func) or freeze_all
        followed, freezes = _is_followed(op.inputs, found), found.atoms.freezes
        results = apply_rule(op, found)
        if op.inputs and all(found.is_weight(Ref(i)) for i in op.inputs):
            found.weights.update(op.outputs)
        for index, planes in zip(op.outputs, results, strict=True):
            found.planes[index] = planes
        _note_loss(op, found, freezes, followed=followed)
    for parts in found.parts.values():
        _pair(parts, found)
    for index in program.outputs:
        found.freeze(found.of(Ref(index)), Reason("is an output of the model"))
    return found


def _is_followed(values: Sequence[int], w: Walk) -> bool:
    """True if some of the values have positions that can still go."""
    return any(not w.atoms.gives_way(plane) for index in values for plane in w.planes.get(index, ()))


def _note_loss(op: Op, w: Walk, freezes: int, *, followed: bool) -> None:
    """Notes why the results of an op can be followed no longer: what meets them is frozen for the same reason."""
    cause = next((w.lost[index] for index in op.inputs if index in w.lost), None)
    start = cause or (_start_of_fixed(op, w) if w.atoms.freezes > freezes else None)
    if start is not None:
        w.atoms.blame(freezes, start)
    if cause is None and followed:
        cause = w.atoms.first_reason(freezes)
    if cause is not None and not _is_followed(op.outputs, w):
        w.lost.update(dict.fromkeys(op.outputs, cause))


def _start_of_fixed(op: Op, w: Walk) -> Reason | None:
    """The op that makes the positions of a fixed size which an op meets, as `arange` numbers heads, if one is known.

    It reads nothing itself, and makes the longest axis of which the one that is met consists.
    """
    moving = {plane.shape[d] for i in op.inputs for plane in w.planes.get(i, ()) for d in varying(plane)}
    found: list[tuple[int, Op]] = []
    for index in op.inputs:
        met = moving.intersection(w.program.values[index].shape)
        if met and not w.planes.get(index) and index not in w.lost:
            makers = [maker for maker in w.program.before(index) if not maker.inputs and maker.outputs]
            sizes = [(n, maker) for maker in makers for n in w.program.values[maker.outputs[0]].shape if n > 1]
            found += [(n, maker) for n, maker in sizes if any(size % n == 0 for size in met)]
    _, maker = max(found, key=lambda pair: pair[0], default=(0, None))
    if maker is None:
        return None
    return Reason(f"{op.name} meets positions of a fixed size", maker.name, maker.source)


def _unread(program: Program) -> set[int]:
    """Ops that run whatever the lengths of the axes, and of whose results nothing but the shape is read."""
    unread: set[int] = set()
    for op in reversed(program.ops):
        reading = {number for index in op.outputs for number in program.readers[index]}
        if op.name in _RUN_ON_ANY_LENGTH and reading <= unread and not set(op.outputs) & set(program.outputs):
            unread.add(op.index)
    return unread


def freeze_all(op: Op, w: Walk) -> Sequence[Planes]:
    """Freezes every axis that an op without a rule touches."""
    reason = Reason(f"no rule for the op {op.name}", op.name, op.source)
    for index in op.inputs:
        w.freeze(w.of(Ref(index)), reason)
    return [() for _ in op.outputs]


def _pair(parts: list[tuple[int, int, Tensor, Reason]], w: Walk) -> None:
    """Slices that divide an axis into equal parts go on doing so: the same position goes from each of them."""
    spans = {(start, stop): (plane, reason) for start, stop, plane, reason in parts}
    spans_in_order = sorted(spans)
    sizes = {stop - start for start, stop in spans_in_order}
    gapless = all(a[1] == b[0] for a, b in pairwise(spans_in_order))
    if len(spans) > 1 and len(sizes) == 1 and gapless and spans_in_order[0][0] == 0:
        planes = [spans[span][0] for span in spans_in_order]
        for plane in planes[1:]:
            w.atoms.unite(planes[0], plane, spans[spans_in_order[0]][1])
