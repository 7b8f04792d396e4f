"""The identity of a run: all that its result depends on, by which runs are told apart and differences are named."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Differences = dict[str, list[str]]
"""What differs, in a few words, by what it belongs to: {"options": ["seed"]}."""
Numbers = tuple[tuple[float, ...], ...]
_PARTS, _LONGEST = 512, 160


@dataclass(frozen=True)
class Identity:
    """All that the result of a run depends on.

    Hashes and the program have to be equal. Outputs may differ by rounding: they are computed anew by every run, maybe
    with another number of threads.

    Attributes:
        hashes: Hashes of parts, by what they belong to.
        program: The ops of the traced pass with their arguments, an op a line.
        outputs: Numbers that stand for each output of the dense model for the first batch; see `summary`.
        losses: The same of what the caller's loss says of them.
        tolerance: By how much such numbers may differ, relative to the largest of their output.
    """

    hashes: dict[str, dict[str, str]]
    program: tuple[str, ...] = ()
    outputs: Numbers = ()
    losses: Numbers = ()
    tolerance: float = 0.0

    def differences(self, other: "Identity") -> Differences:
        """The differences to another identity; programs and outputs count where the data that they saw are the same."""
        found = {}
        for name, parts in self.hashes.items():
            theirs = other.hashes.get(name, {})
            if changed := [part for part, value in parts.items() if theirs.get(part) != value]:
                found[name] = changed
        if "calibration data" not in found and (changed := self._of_passes(other)):
            found["model"] = [*found.get("model", []), *changed]
        if not found and (changed := self._of_numbers(self.losses, other.losses, "the loss of the first batch", other)):
            found["loss_fn"] = changed
        return found

    def _of_passes(self, other: "Identity") -> list[str]:
        if line := _difference(self.program, other.program):
            return [line]
        return self._of_numbers(self.outputs, other.outputs, "its outputs for the first batch", other)

    def _of_numbers(self, mine: Numbers, theirs: Numbers, what: str, other: "Identity") -> list[str]:
        if list(map(len, mine)) != list(map(len, theirs)):
            return [f"the shapes of {what}"]
        apart = max((_distance(*pair) for pair in zip(mine, theirs, strict=True)), default=0.0)
        return [f"{what}, by {apart:.2g} of the largest"] if apart > max(self.tolerance, other.tolerance) else []


def summary(tensors: Sequence[Tensor]) -> Numbers:
    """Means and root mean squares of parts of each tensor: few numbers, in which each entry has its share."""
    found = []
    for tensor in tensors:
        flat = tensor.detach().flatten().cpu()
        flat = (flat.real + flat.imag if flat.is_complex() else flat).double().nan_to_num(0.0, 0.0, 0.0)
        parts = flat.tensor_split(min(_PARTS, len(flat))) if len(flat) else ()
        found.append(tuple(float(f"{n:.7g}") for part in parts for n in (part.mean(), part.square().mean().sqrt())))
    return tuple(found)


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference, relative to the largest number."""
    size = max(map(abs, [*one, *other]), default=0.0)
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0) / (size or 1.0)


def _difference(mine: Sequence[str], theirs: Sequence[str]) -> str:
    """The first line that differs, in words; "" where none does."""
    for number, (here, there) in enumerate(zip(mine, theirs, strict=False)):
        if here != there:
            return f"op {number} of its forward pass: '{here[:_LONGEST]}' and not '{there[:_LONGEST]}'"
    return "" if len(mine) == len(theirs) else f"its forward pass, of {len(mine)} ops and not {len(theirs)}"


def describe(differences: Differences) -> str:
    """Differences in words: the part of each thing that differs, where it is not the thing itself."""
    parts = [f"{name}: {', '.join(found)}" for name, found in differences.items() if found != [name]]
    return f" What differs of the {'; of the '.join(parts)}." if parts else ""
