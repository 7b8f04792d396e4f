"""The pruning graph: which nodes a model has, where each of them lives, and why others cannot be removed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, lcm
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mipp.graph.axes import Ints, Reason
from mipp.graph.layers import swap_axes

if TYPE_CHECKING:
    from mipp.graph.program import Program


@dataclass(frozen=True)
class ParamSlice:
    """The positions of a group's nodes on one axis of one parameter or buffer.

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
        multiple: Widths are multiples of this; at others an op that runs over the nodes refuses to.
        alike: Groups with the same name here keep equally many nodes, as the layers of one LSTM do; "" for none.
    """

    name: str
    size: int
    slices: tuple[ParamSlice, ...]
    first_node: int
    multiple: int = 1
    alike: str = ""

    @property
    def producers(self) -> tuple[str, ...]:
        """Modules (or bare parameters) whose outputs the nodes are."""
        return tuple(dict.fromkeys(owner(s.tensor) for s in self.slices if not s.reads))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Modules that read the nodes through a weight."""
        return tuple(dict.fromkeys(owner(s.tensor) for s in self.slices if s.reads))

    def unit(self, round_to: int = 1) -> int:
        """Widths are multiples of this: of what ops demand, and of `round_to` in groups that are as wide."""
        return width_unit(self.size, self.multiple, round_to)

    def least(self, min_keep: int) -> int:
        """The smallest width where `min_keep` nodes are to stay; what is kept in multiples is never emptied."""
        if self.multiple == 1:
            return min(min_keep, self.size)
        return min(ceil(max(min_keep, 1) / self.multiple) * self.multiple, self.size)

    def holds(self, nodes: Ints) -> NDArray[np.bool_]:
        """True for each of some nodes, counted through all groups, that is one of this group."""
        held: NDArray[np.bool_] = (nodes >= self.first_node) & (nodes < self.first_node + self.size)
        return held

    def places(self, nodes: Ints) -> Ints:
        """The places of each node among the nodes counted through all groups, shape [nodes, places per node]."""
        own = np.flatnonzero(self.holds(nodes))
        return own[np.argsort(nodes[own], kind="stable")].reshape(self.size, -1)


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
        weight: Name of the weight ("" if it is computed).
        bias: Name of the bias or "".
        reads: Node at every position of the weight's input axis, -1 for positions that stay.
        writes: Node at every position of the weight's output axis, -1 for positions that stay.
        groups: Number of convolution groups.
        reads_axis: The weight's input axis: 1, or 0 where the weight is stored as [inputs, outputs, ...].
        rows: Node at every position of axes in front, such as that of channels where tokens are mixed, by dimension;
            only of axes that nodes are on.
    """

    op: int
    weight: str
    bias: str
    reads: Ints
    writes: Ints
    groups: int
    reads_axis: int = 1
    rows: Mapping[int, Ints] = field(default_factory=dict)

    def outputs_to_keep(self, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The positions of the output axis that stay, for a keep-mask over all nodes."""
        return np.where(self.writes >= 0, keep[self.writes], True)

    def inputs_to_keep(self, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The positions of the input axis that stay."""
        return np.where(self.reads >= 0, keep[self.reads], True)

    def rows_to_keep(self, keep: NDArray[np.bool_]) -> dict[int, NDArray[np.bool_]]:
        """The positions of the axes in front that stay, by dimension."""
        return {dim: np.where(nodes >= 0, keep[nodes], True) for dim, nodes in self.rows.items()}

    def swap_axes(self, weight: Tensor) -> Tensor:
        """The weight as [outputs, inputs per group, ...], or back as it is stored."""
        return weight if self.reads_axis == 1 else swap_axes(weight, self.groups)

    def features_of(self, group: NodeGroup, weight: Tensor) -> Tensor:
        """Features of every node among the inputs, in the order of the flattened weight, shape [nodes, width].

        Args:
            group: A group that the site reads.
            weight: The weight as [outputs, inputs per group, ...].
        """
        kernel = weight.shape[2:].numel()
        features = group.places(self.reads)[:, :, None] * kernel + np.arange(kernel)
        return torch.from_numpy(features.reshape(group.size, -1))

    def by_group(self, weight: Tensor) -> Tensor:
        """The flattened weight in float64 on the CPU, by convolution group, shape [groups, outputs, features].

        Args:
            weight: The weight as [outputs, inputs per group, ...].
        """
        rows: Tensor = weight.detach().cpu().double().flatten(1).unflatten(0, (self.groups, -1))
        return rows


@dataclass(frozen=True)
class Reduction:
    """An op that runs over an axis that can be cut: over the positions that are kept, in the cut and the masked model.

    Attributes:
        module: Path of the module that calls the op.
        op: Name of the op.
        call: Which of the module's calls of that op it is, counted from 0.
        length: Length of the axis.
        positions: Where the nodes of each group are on the axis, shape [nodes, positions per node].
        reads: Number and dimension of every tensor argument that has the axis.
        writes: Dimensions of the result that keep the axis.
    """

    module: str
    op: str
    call: int
    length: int
    positions: Mapping[str, Ints]
    reads: tuple[tuple[int, int], ...]
    writes: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """Length of an axis: `fixed` plus, for every group, `per_node[group]` positions per kept node."""

    fixed: int
    per_node: Mapping[str, int]


@dataclass(frozen=True)
class Work:
    """A product of axis lengths: `coefficient` x the sizes.

    It stands for the MACs of one op, the elements of one parameter, or the bytes of one tensor.
    """

    op: int
    coefficient: int
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Activation:
    """Memory that a pass needs for a time.

    Attributes:
        bytes: Of the whole batch.
        start: Index of the first op during which it is held.
        end: Index of the last.
    """

    bytes: Work
    start: int
    end: int


@dataclass(frozen=True)
class Doubt:
    """A size that the code either computes or fixes: only a trial cut can tell.

    Attributes:
        number: Number of the doubt, the same in every graph of one draft.
        module: Path of the module that gives the size.
        size: The size in the dense model.
        count: What it counts.
        reason: The op and the source line; why its nodes are frozen if the size does not follow them.
    """

    number: int
    module: str
    size: int
    count: Size
    reason: Reason


@dataclass(frozen=True)
class Counted:
    """The size of a doubt as an attribute counts it.

    Attributes:
        number: Number of the doubt.
        unit: Positions that the attribute counts as one, as a head of several is.
        removable: It counts only the positions that can go, without those of a fixed size beside them.
    """

    number: int
    unit: int = 1
    removable: bool = False

    def of(self, size: Size) -> Size:
        """The value of the attribute where the positions of the doubt have this size."""
        fixed = 0 if self.removable else size.fixed
        return Size(fixed // self.unit, {name: number // self.unit for name, number in size.per_node.items()})


@dataclass(frozen=True)
class PruningGraph:
    """The groups of nodes that can be removed from a model, and the layers that are frozen.

    Attributes:
        groups: Node groups by name, in data-flow order.
        frozen: Layers whose nodes stay, each with its reason.
        program: The traced pass, on `batch` samples.
        macs: Multiply-accumulates of the whole batch, one entry per op.
        params: Elements of every parameter.
        activations: Inputs, and results that depend on them, each with memory of its own.
        attributes: Module attributes that count nodes: {(module, attribute): size}.
        reductions: Ops that run over an axis that can be cut.
        doubts: Sizes in the code that removing nodes has to change.
    """

    groups: Mapping[str, NodeGroup]
    frozen: tuple[Frozen, ...]
    program: "Program"
    batch: int
    sites: tuple[Site, ...]
    macs: tuple[Work, ...]
    params: tuple[Work, ...]
    activations: tuple[Activation, ...]
    attributes: Mapping[tuple[str, str], Size]
    reductions: tuple[Reduction, ...]
    doubts: tuple[Doubt, ...]

    @property
    def num_nodes(self) -> int:
        return sum(group.size for group in self.groups.values())

    def readers(self, group: NodeGroup) -> list[Site]:
        """The ops that read a group through a weight, in order; of several with one weight the first."""
        if self.groups.get(group.name) is group:
            return list(self._readers[group.name])
        return self._find_readers(group)

    @cached_property
    def _readers(self) -> dict[str, list[Site]]:
        return {name: self._find_readers(group) for name, group in self.groups.items()}

    def _find_readers(self, group: NodeGroup) -> list[Site]:
        return [s for s in self.distinct_sites if group.holds(s.reads).any()]

    @cached_property
    def distinct_sites(self) -> list[Site]:
        """The first use of every weight, in order."""
        return list({site.weight or site.op: site for site in reversed(self.sites)}.values())[::-1]

    def uses(self, site: Site) -> list[int]:
        """Indices of all ops with the weight of a site (a layer called twice, or once per step)."""
        return [s.op for s in self.sites if s.weight == site.weight] if site.weight else [site.op]

    def keep_mask(self, kept: Mapping[str, Collection[int]]) -> NDArray[np.bool_]:
        """True for each node of the graph that stays, shape [num_nodes]; groups not named keep everything."""
        mask = np.ones(self.num_nodes, bool)
        for name, nodes in kept.items():
            group = self.groups[name]
            mask[group.first_node : group.first_node + group.size] = False
            mask[group.first_node + np.asarray(list(nodes), np.int64)] = True
        return mask


def companions(groups: Mapping[str, NodeGroup], name: str) -> list[str]:
    """The groups that keep as many nodes as one of them, which is the only one if there are no others."""
    alike = groups[name].alike
    return [other for other, group in groups.items() if group.alike == alike] if alike else [name]


def width_unit(size: int, multiple: int, round_to: int) -> int:
    """The unit that widths of a group of `size` nodes are rounded to: what ops demand, and the caller where it fits."""
    return lcm(multiple, round_to if size >= round_to else 1)


def owner(tensor: str) -> str:
    """Path of the module that holds a tensor; a tensor of the model itself is its own owner."""
    module, parametrized, _ = tensor.partition(".parametrizations.")
    return module if parametrized else tensor.rpartition(".")[0] or tensor
