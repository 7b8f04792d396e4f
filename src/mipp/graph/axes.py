"""Atoms on tensor axes, and the sets that unite those which belong together.

Every position of every parameter axis is an *atom*. A tensor of the traced pass carries *planes*: integer tensors of
its own number of dimensions (size 1 where nothing varies) that hold, for each position, the atom it belongs to.
Ops that move data are applied to the planes themselves; ops that meet position by position unite atoms. What is left
at the end are sets of atoms that can only be removed together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FIXED = -1
"""Stands in a plane for a position that no surgery can remove."""

Planes = tuple[Tensor, ...]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reason:
    """The reason why atoms cannot be removed: the obstacle, the op and the source line."""

    text: str
    op: str = ""
    source: str = ""

    @property
    def is_met(self) -> bool:
        """True if the op only meets positions that something else has fixed."""
        return self.text.endswith("positions of a fixed size")


@dataclass(frozen=True, eq=False)
class Meeting:
    """A table of atoms, such as heads by width, that meets vectors, each along other dimensions of the table.

    The nodes are whole rows or whole columns of the table: the vector along which they lie is cut with them.
    """

    table: Tensor
    vectors: tuple[Tensor, ...]
    reason: Reason


@dataclass
class Atoms:
    """A growing set of atoms, which of them are united, and which are frozen."""

    count: int = 0
    _pairs: list[tuple[Ints, Ints]] = field(default_factory=list)
    _frozen: list[tuple[Ints, Reason]] = field(default_factory=list)
    _meetings: list[Meeting] = field(default_factory=list)
    _elastic: list[tuple[int, int]] = field(default_factory=list)
    _stay: set[int] = field(default_factory=set)
    _marked: int = 0

    def fresh(self, number: int) -> Tensor:
        """Returns `number` new atoms, shape [number]."""
        self.count += number
        return torch.arange(self.count - number, self.count)

    def unite(self, left: Tensor, right: Tensor, reason: Reason) -> None:
        """Unites atoms position by position (with broadcasting); an atom that meets `FIXED` is frozen for `reason`."""
        a, b = (t.reshape(-1).numpy() for t in torch.broadcast_tensors(left, right))
        both = (a >= 0) & (b >= 0)
        self._pairs.append((a[both], b[both]))
        self.freeze(torch.from_numpy(np.concatenate([a[b < 0], b[a < 0]])), reason)

    def elastic(self, number: int) -> Tensor:
        """New atoms for positions that all hold the same value, so that any of them can go, shape [number]."""
        self._elastic.append((self.count, self.count + number))
        return self.fresh(number)

    def gives_way(self, plane: Tensor) -> bool:
        """True if a plane holds one value at all of its positions, or none of them can go: other planes come first."""
        own = plane.reshape(-1).numpy()
        first = int(own[0]) if len(own) else -1
        if first >= 0 and any(start <= first < stop for start, stop in self._elastic):
            return True
        for atoms, _ in self._frozen[self._marked :]:
            self._stay.update(atoms.tolist())
        self._marked = len(self._frozen)
        if first >= 0 and first not in self._stay:
            return False
        return self._stay.issuperset(own[own >= 0].tolist())

    def unite_rows(self, table: Tensor, vectors: Sequence[Tensor], reason: Reason) -> None:
        """Notes that a table meets vectors along its dimensions: the weight of a norm per head, a bias [heads, width].

        Where other ops unite whole rows or whole columns, they decide which vector is cut; the others stay.
        """
        self._meetings.append(Meeting(table, tuple(vectors), reason))

    def unite_along(self, plane: Tensor, dims: Sequence[int], reason: Reason) -> None:
        """Unites all atoms of a plane that differ only in their position along `dims`; one `FIXED` freezes its row."""
        first, fixed = plane, plane < 0
        for dim in dims:
            first, fixed = first.narrow(dim, 0, 1), fixed.any(dim, keepdim=True)
        self.freeze(plane[fixed.expand_as(plane)], reason)
        a, b = (t.reshape(-1).numpy() for t in torch.broadcast_tensors(plane, first))
        both = (a >= 0) & (b >= 0)
        self._pairs.append((a[both], b[both]))

    def hold(self, plane: Tensor, dims: Sequence[int], reason: Reason) -> None:
        """Keeps the length of `dims`: what varies elsewhere too goes by whole rows, what does not is frozen."""
        dims = [d for d in dims if plane.shape[d] > 1]
        if dims and set(varying(plane)) <= set(dims):
            self.freeze(plane, reason)
        elif dims:
            self.unite_along(plane, dims, reason)

    def freeze(self, atoms: Tensor, reason: Reason) -> None:
        """Marks atoms as not removable; of several reasons the first one stands."""
        array = atoms.reshape(-1).numpy()
        if (array >= 0).any():
            self._frozen.append((array[array >= 0], reason))

    def blame(self, since: int, reason: Reason) -> None:
        """Gives another reason for what was frozen, since a count of freezes, by meeting positions of a fixed size."""
        self._frozen[since:] = [(atoms, reason if r.is_met else r) for atoms, r in self._frozen[since:]]

    def first_reason(self, since: int) -> Reason | None:
        """The reason of the first freeze since a count of freezes."""
        return self._frozen[since][1] if len(self._frozen) > since else None

    @property
    def freezes(self) -> int:
        """Count of freezes so far."""
        return len(self._frozen)

    def resolve(
        self, frozen: Sequence[tuple[Tensor, Reason]] = (), ties: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> "Sets":
        """Puts united atoms into sets.

        Args:
            frozen: More atoms to freeze, each with its reason.
            ties: More atoms to unite, position by position.
        """
        sets = self._components(ties)
        for atoms, reason in self._frozen:
            sets.freeze(atoms, reason)
        for more, reason in frozen:
            sets.freeze(more.reshape(-1).numpy(), reason)
        return sets

    def settle(self) -> None:
        """Unites every table with the vector along which its nodes lie; where nothing decides, with the first."""
        while self._meetings:
            sets = self._components()
            chosen = {m: _moving(m, sets) for m in self._meetings}
            if all(vector is None for vector in chosen.values()):
                tables = [m.table for m in self._meetings]
                chosen |= {self._meetings[i]: 0 for i in disjoint(tables, sets)}
            self._meetings = [m for m in self._meetings if chosen[m] is None]
            for m, moving in chosen.items():
                for number, vector in enumerate(m.vectors):
                    if number == moving:
                        self.unite(m.table, vector, m.reason)
                    elif moving is not None:
                        self.freeze(vector, m.reason)

    def _components(self, ties: Sequence[tuple[Tensor, Tensor]] = ()) -> "Sets":
        pairs = [*self._pairs, *((a.numpy(), b.numpy()) for a, b in ties)]
        left = np.concatenate([a for a, _ in pairs]) if pairs else np.empty(0, np.int64)
        right = np.concatenate([b for _, b in pairs]) if pairs else np.empty(0, np.int64)
        edges = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(self.count, self.count))
        number, labels = connected_components(edges, directed=False)
        return Sets(labels.astype(np.int64), np.full(number, -1), [])


def _moving(m: Meeting, sets: "Sets") -> int | None:
    """Number of the vector that lies along the nodes of a table, -1 if none does, None if nothing decides yet."""
    at = sets.at(m.table.numpy())
    moving = {d for d in varying(m.table) if (at != np.take(at, [0], axis=d)).any()}
    if not moving:
        return 0
    lying = [n for n, vector in enumerate(m.vectors) if moving & set(varying(vector))]
    if not lying:
        return -1
    return lying[0] if moving <= set(varying(m.vectors[lying[0]])) else None


def disjoint(planes: Sequence[Tensor], sets: "Sets") -> list[int]:
    """Numbers of planes that have no set in common with an earlier one: what is done to one decides no other."""
    chosen: list[int] = []
    taken: set[int] = set()
    for number, plane in enumerate(planes):
        own = set(np.unique(sets.at(plane.numpy())).tolist()) - {-1}
        if not own & taken:
            chosen.append(number)
        taken |= own
    return chosen


@dataclass(frozen=True)
class Sets:
    """Atoms that can only be removed together, and which sets stay.

    Attributes:
        of_atom: Set of every atom, shape [atoms].
        reason_of: For every set, the index of the reason why it stays, -1 if it can go; shape [sets].
    """

    of_atom: Ints
    reason_of: Ints
    reasons: list[Reason]

    def freeze(self, atoms: Ints, reason: Reason) -> None:
        """Freezes the sets of the atoms given (negative ones are none); of several reasons the first one stands."""
        sets = self.of(atoms)
        self.reason_of[sets[self.reason_of[sets] < 0]] = len(self.reasons)
        self.reasons.append(reason)

    def of(self, atoms: Ints) -> Ints:
        """The sets of the atoms given, without those that are none."""
        found: Ints = self.of_atom[atoms[atoms >= 0]]
        return found

    def at(self, atoms: Ints) -> Ints:
        """The set at every position, -1 where there is none."""
        found: Ints = np.where(atoms < 0, -1, self.of_atom[atoms]) if len(self.of_atom) else np.full(atoms.shape, -1)
        return found


def varying(plane: Tensor) -> tuple[int, ...]:
    """The dimensions along which a plane varies."""
    return tuple([d for d, size in enumerate(plane.shape) if size > 1])


def along(planes: Planes, dims: Sequence[int]) -> Tensor | None:
    """The plane that varies along any of `dims`, if there is one."""
    return next((p for p in planes if set(varying(p)) & set(dims)), None)


def without(planes: Planes, dims: Sequence[int]) -> Planes:
    """The planes that do not vary along any of `dims`."""
    return tuple(p for p in planes if not set(varying(p)) & set(dims))


def line(plane: Tensor, dim: int) -> Tensor:
    """The atoms along one dimension, at the start of all others, shape [size]."""
    for other in varying(plane):
        plane = plane if other == dim else plane.narrow(other, 0, 1)
    return plane.reshape(-1)


def compress(plane: Tensor) -> Tensor:
    """`plane` with size 1 wherever it is constant."""
    for dim in range(plane.ndim):
        first = plane.narrow(dim, 0, 1) if plane.shape[dim] else plane
        if plane.shape[dim] > 1 and (plane.stride(dim) == 0 or torch.equal(first.expand_as(plane), plane)):
            plane = first
    return plane


def move_plane(plane: Tensor, shape: Sequence[int], move: Callable[[Tensor], Any]) -> list[Tensor]:
    """Applies an op that only moves data to a plane of a tensor of `shape`; one result per output."""
    out = move(plane.expand(tuple(shape)))
    return [compress(t) for t in (out if isinstance(out, tuple | list) else [out])]


def merge(operands: Sequence[tuple[Planes, tuple[int, ...]]], atoms: Atoms, reason: Reason) -> Planes:
    """Planes of the result of an element-wise op; unites what meets.

    Args:
        operands: Planes and shape of every tensor operand.
        reason: Given where a removable position meets one that is fixed.
    """
    ndim = max((len(shape) for _, shape in operands), default=0)
    aligned = [
        ([(p, set(varying(p))) for p in (_lead(p, ndim) for p in planes)], (1,) * (ndim - len(s)) + tuple(s))
        for planes, s in operands
    ]
    clusters: list[set[int]] = []
    for planes, _ in aligned:
        for _, varied in planes:
            _absorb(clusters, varied)
    return tuple(_meet(dims, aligned, atoms, reason) for dims in clusters)


def _meet(
    dims: set[int],
    operands: Sequence[tuple[Sequence[tuple[Tensor, set[int]]], tuple[int, ...]]],
    atoms: Atoms,
    reason: Reason,
) -> Tensor:
    """The plane along some dimensions; operands are planes, each with the dimensions along which it varies."""
    present = [(p, varied) for planes, _ in operands for p, varied in planes if varied & dims]
    tables = [p for p, varied in present if varied == dims]
    result = tables[0] if tables else present[0][0].expand(np.broadcast_shapes(*(p.shape for p, _ in present)))
    for planes, size in operands:
        met = [(p, varied) for p, varied in planes if varied & dims]
        missing = [d for d in sorted(dims) if size[d] > 1 and all(d not in varied for _, varied in met)]
        if missing:
            atoms.hold(result, missing, reason)
        if tables and len(dims) > 1 and met and all(varied < dims for _, varied in met):
            atoms.unite_rows(result, [p for p, _ in met], reason)
        elif len(met) > 1:
            atoms.freeze(result, reason)
        elif met and met[0][0] is not result:
            atoms.unite(result, met[0][0], reason)
    return compress_expanded(result)


def compress_expanded(plane: Tensor) -> Tensor:
    """`plane` with size 1 along its stride-0 dimensions (a cheap `compress` for planes just expanded)."""
    for dim in range(plane.ndim):
        if plane.shape[dim] > 1 and plane.stride(dim) == 0:
            plane = plane.narrow(dim, 0, 1)
    return plane


def _absorb(clusters: list[set[int]], dims: set[int]) -> None:
    overlapping = [c for c in clusters if c & dims]
    clusters[:] = [c for c in clusters if not c & dims] + [dims.union(*overlapping)]


def _lead(plane: Tensor, ndim: int) -> Tensor:
    return plane if plane.ndim == ndim else plane.reshape((1,) * (ndim - plane.ndim) + tuple(plane.shape))
