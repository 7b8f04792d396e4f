"""Products of tensors in Einstein's notation: the planes of the result, and the axes that are summed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mipp.graph.axes import FIXED, Planes, Reason, along, line, varying, without
from mipp.graph.findings import Term, WalkReduction
from mipp.graph.program import Op, Ref

if TYPE_CHECKING:
    from mipp.graph.tracker import Walk


@dataclass(frozen=True)
class Factor:
    """One operand of a product: its number among the tensor arguments, planes, shape, and a letter per dimension."""

    number: int
    planes: Planes
    shape: tuple[int, ...]
    letters: str

    def dim(self, letter: str) -> int:
        return self.letters.find(letter)


def product(op: Op, w: "Walk", factors: Sequence[Factor], out: str) -> Planes:
    """Planes of a sum of products in Einstein's notation: what is summed and can be cut is cut in every factor."""
    letters = dict.fromkeys("".join(f.letters for f in factors))
    size = {letter: n for f in factors for letter, n in zip(f.letters, f.shape, strict=True) if n > 1}
    w.terms.append(Term(op.index, 1, tuple(find_line(factors, letter, size.get(letter, 1)) for letter in letters)))
    weights = [f for f in factors if f.number >= 0 and w.is_weight(Ref(op.inputs[f.number]))]
    for f in weights if len(weights) < len(factors) else []:
        w.producers.extend(find_line([f], letter, 1) for letter in f.letters if letter in out)
        w.readers.extend(find_line([f], letter, 1) for letter in f.letters if letter not in out)
    for letter in letters:
        if letter not in out:
            factors = _sum_over(op, w, factors, letter)
    return w.merge(op, [_permute(f, out) for f in factors])


def find_line(factors: Sequence[Factor], letter: str, size: int) -> Tensor:
    """The atom of every position of a letter; `FIXED` where no factor knows it by itself."""
    for f in factors:
        plane = along(f.planes, [f.dim(letter)]) if letter in f.letters else None
        if plane is not None:
            return line(plane, f.dim(letter))
    return torch.full((size,), FIXED)


def _sum_over(op: Op, w: "Walk", factors: Sequence[Factor], letter: str) -> Sequence[Factor]:
    """Ties the factors along a letter that is summed; returns them as they vary along the others."""
    having = [f for f in factors if letter in f.letters]
    planes = [along(f.planes, [f.dim(letter)]) for f in having]
    if all(p is None for p in planes):
        return factors
    reason = Reason(f"{op.name} sums over the axis", op.name, op.source)
    lines = [p.reshape(-1) for p in planes if p is not None and len(varying(p)) == 1]
    if len(lines) == len(having):
        for other in lines[1:]:
            w.atoms.unite(lines[0], other, reason)
        reads = tuple((f.number, f.dim(letter), lines[0]) for f in having)
        w.reductions.append(WalkReduction(op.index, reads))
        return factors
    for f, plane in zip(having, planes, strict=True):
        if plane is not None:
            w.atoms.hold(plane, [f.dim(letter)], reason)
    return [_narrow(f, letter) for f in factors]


def _narrow(f: Factor, letter: str) -> Factor:
    if letter not in f.letters:
        return f
    rows = (p.narrow(f.dim(letter), 0, 1) for p in f.planes)
    return Factor(f.number, tuple(p for p in rows if varying(p)), f.shape, f.letters)


def _permute(f: Factor, out: str) -> tuple[Planes, tuple[int, ...]]:
    """Planes and shape of a factor with its dimensions in the order of the result; those summed are left out."""
    gone = [d for d, letter in enumerate(f.letters) if letter not in out]
    planes = without(f.planes, gone)
    places = {d: out.index(letter) for d, letter in enumerate(f.letters) if letter in out}
    return tuple(_spread(p, places, len(out)) for p in planes), _sizes(f.shape, places, len(out))


def _spread(plane: Tensor, places: dict[int, int], ndim: int) -> Tensor:
    order = sorted(places, key=lambda d: places[d])
    moved = plane.permute(*order, *(d for d in range(plane.ndim) if d not in places))
    return moved.reshape(_sizes(tuple(plane.shape), places, ndim))


def _sizes(shape: tuple[int, ...], places: dict[int, int], ndim: int) -> tuple[int, ...]:
    sizes = [1] * ndim
    for d, place in places.items():
        sizes[place] = shape[d]
    return tuple(sizes)
