"""Findings of a walk through a traced pass, in atoms: layers, sums over axes, costs, and sizes to look after."""

from dataclasses import dataclass

from torch import Tensor

from mipp.graph.axes import Reason


@dataclass(frozen=True)
class WalkSite:
    """An op that reads nodes through a weight: a linear layer or convolution.

    Attributes:
        op: Index of the op.
        weight: Name of the weight if it is a parameter itself, else "" (computed weights are cut but not refitted).
        reads: Atom of every position of the weight's input axis, shape [inputs per group].
        writes: Atom of every position of the weight's output axis, shape [outputs].
        groups: Number of convolution groups.
        reads_axis: The weight's input axis: 1, or 0 where weights are stored the other way round.
        rows: Atoms of every axis in front of the one that is read, if there may be nodes on these.
    """

    op: int
    weight: str
    bias: str
    reads: Tensor
    writes: Tensor
    groups: int = 1
    reads_axis: int = 1
    rows: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class WalkReduction:
    """An op that sums, or takes statistics, over an axis that can be cut: a mask leaves the removed positions out.

    Attributes:
        op: Index of the op.
        reads: For every tensor that has the axis: its number among the tensor arguments, the dimension, and the atom
            of every position.
        writes: Dimensions of the result that keep the axis (none for a sum).
    """

    op: int
    reads: tuple[tuple[int, int, Tensor], ...]
    writes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Term:
    """MACs of one op: coefficient times the number of kept positions of each axis (atoms, `FIXED` where constant)."""

    op: int
    coefficient: int
    axes: tuple[Tensor, ...]


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module that counts kept nodes, such as `groups` of a depthwise convolution.

    `name` may end in ".0" for the first entry of a tuple.
    """

    module: str
    name: str
    atoms: Tensor


@dataclass(frozen=True)
class WalkDoubt:
    """Positions whose removal is right only if the code computes a size instead of fixing it; a trial cut decides.

    Attributes:
        op: Index of the op that was given the size.
        size: The size.
        atoms: Atom of every position that the size counts.
        inferred: The op infers the size; an attribute that holds it may still stand behind others.
    """

    op: int
    size: int
    atoms: Tensor
    reason: Reason
    inferred: bool = False


@dataclass(frozen=True)
class Alignment:
    """An axis that an op runs over only at lengths that are multiples of a number, as kernels over whole words do."""

    op: int
    atoms: Tensor
    multiple: int
