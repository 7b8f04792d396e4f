"""Regions of a network that can be trained one after the other: each hands a single value on to the next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mipp.errors import UnsupportedModelError
from mipp.graph.layers import as_layer, channel_dim, is_layer
from mipp.graph.nodes import PruningGraph
from mipp.graph.program import Op, Program
from mipp.plan.plan import PruningPlan
from mipp.statistics.paths import Path

_MULTIPLY = ("mul", "matmul", "bmm", "div")
_LINEAR = (
    "add", "sub", "batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "mean", "sum", "cat", "stack", "dropout", "clone",
    "detach", "alias", "contiguous", "to", "_to_copy", "slice", "select", "index_select", "embedding", "chunk", "split",
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "squeeze", "unsqueeze", "expand", "pad",
    "constant_pad_nd",
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """A stretch of a program.

    Attributes:
        start: Its first op.
        stop: The op behind its last.
        value: What it hands on; -1 where it ends in the outputs of the model.
        kept: Which positions of that value the pruned model has, by dimension.
        weights: Names of the parameters that are read in it and nowhere else.
    """

    start: int
    stop: int
    value: int
    kept: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    weights: tuple[str, ...] = ()


def find_regions(graph: PruningGraph, plan: PruningPlan) -> list[Region]:
    """Cuts a network into regions, from input to output.

    A region ends where one value is all that the rest of the network reads of what weights had a part in: behind a
    residual block, half a transformer layer, a stage of a chain. It holds two layers at least with a non-linearity
    between them, as single matrices are fitted in closed form. What comes behind the last such place is a region of its
    own, up to the outputs, where it reads removed nodes; a network without such a place is one region.

    Args:
        graph: Of the dense model.
        plan: What is cut.
    """
    found, keep = _Walk(graph.program), graph.keep_mask(plan.kept)
    reading = [site.op for site in graph.sites if not keep[site.reads[site.reads >= 0]].all()]
    spans, start, end = [], 0, len(graph.program.ops)
    for candidates in found.places():
        known = ((place, value, _kept_positions(graph, keep, value)) for place, value in candidates)
        place, value, kept = next((one for one in known if one[2] is not None), (0, 0, None))
        if kept is not None and found.holds_non_linearity(start, place):
            spans.append((start, place, value, kept))
            start = place
    if spans and any(op >= start for op in reading) and not found.holds_non_linearity(start, end):
        start = spans.pop()[0]  # a layer behind the last place, with the region before it
    if not spans or any(op >= start for op in reading):
        spans.append((start, end, -1, {}))
    return [Region(a, b, value, kept, found.weights_of(a, b)) for a, b, value, kept in spans]


@dataclass(frozen=True)
class Stretch:
    """A region on the path of a batch.

    Attributes:
        value: What it hands on; -1 where it ends in the outputs of the model.
        stop: The op behind its last.
        others: Names of the parameters that the path reads outside of it.
    """

    value: int
    stop: int
    others: frozenset[str] = frozenset()


def find_stretches(graph: PruningGraph, regions: Sequence[Region], path: Path) -> list[Stretch]:
    """The regions on a path that takes other ops than the graph's program, by the layers that lie between them.

    Raises:
        UnsupportedModelError: The path has no place that corresponds to the end of a region.
    """
    if path.is_expected:
        return [Stretch(region.value, region.stop) for region in regions]
    walk, found, start = _Walk(path.program), [], 0
    read = {v.name for v, ops in zip(walk.program.values, walk.program.readers, strict=True) if ops}
    for region in regions:
        value, stop = walk.end_of(graph.program, region, path)
        inside = walk.weights_of(start, stop)
        found.append(Stretch(value, stop, frozenset(read.difference(inside))))
        start = stop
    return found


class _Walk:
    """The layers of a program, and the values that cross between two ops."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.from_input = [value.origin == "input" for value in program.values]
        self.from_weight = [value.origin == "parameter" for value in program.values]
        for op in program.ops:
            for index in op.outputs:
                self.from_input[index] = any(self.from_input[i] for i in op.inputs)
                self.from_weight[index] = any(self.from_weight[i] for i in op.inputs)

    @cached_property
    def layers(self) -> list[int]:
        """The ops that apply a weight to what comes from the input."""
        return [op.index for op in self.program.ops if is_layer(op.name) and self._has_weight(op)]

    def places(self) -> Iterator[list[tuple[int, int]]]:
        """The places before each layer, and behind the one before, where one value crosses, last first; that value."""
        for before, layer in pairwise([-1, *self.layers]):
            own = range(layer, before, -1)
            yield [(place, self.crossing[place][0]) for place in own if len(self.crossing[place]) == 1]

    def end_of(self, expected: Program, region: Region, path: Path) -> tuple[int, int]:
        """The value that a region hands on, on another path, and the op behind its last.

        Raises:
            UnsupportedModelError: There is none.
        """
        if region.value < 0:
            return -1, len(self.program.ops)
        maker, shape = expected.ops[expected.values[region.value].producer], expected.values[region.value].shape
        before = max((own for own, there in path.sites.items() if there < region.stop), default=-1)
        for place in range(min(path.start_of(region.stop), len(self.program.ops) - 1), before, -1):
            for value in self.crossing[place] if len(self.crossing[place]) == 1 else ():
                own = self.program.values[value]
                op = self.program.ops[own.producer]
                if (op.name, op.module, len(own.shape)) == (maker.name, maker.module, len(shape)):
                    return value, place
        raise UnsupportedModelError(
            f"its path has no place that corresponds to what {maker.name} at {maker.source} hands on in the first batch"
        )

    def holds_non_linearity(self, start: int, stop: int) -> bool:
        """True if a non-linear op lies between two layers of these ops."""
        own = [layer for layer in self.layers if start <= layer < stop]
        return len(own) > 1 and any(self._bends(op) for op in self.program.ops[own[0] + 1 : own[-1]])

    def weights_of(self, start: int, stop: int) -> tuple[str, ...]:
        """Names of the parameters that these ops read, and no others."""
        values, readers = self.program.values, self.program.readers
        found: dict[str, bool] = {}
        for value, reading in zip(values, readers, strict=True):  # one name may be that of several values
            if value.origin == "parameter" and reading:
                found[value.name] = found.get(value.name, True) and all(start <= op < stop for op in reading)
        return tuple(name for name, inside in found.items() if inside)

    @cached_property
    def crossing(self) -> list[list[int]]:
        """For every place before an op, the values from weights and input that are made before and read from there.

        Inside of a recurrent layer there is no place.
        """
        last = self.program.last_reads
        live: list[int] = []
        found = []
        for op in self.program.ops:
            live = [index for index in live if last[index] >= op.index]
            found.append(live if self.program.start_of(op.index) == op.index else [])
            live = [*live, *(i for i in op.outputs if self.from_weight[i] and self.from_input[i])]
        return found

    def _has_weight(self, op: Op) -> bool:
        layer = as_layer(op.name, op.arguments)
        index = getattr(layer["weight"], "index", -1)
        return index >= 0 and self.from_weight[index] and not self.from_input[index]

    def _bends(self, op: Op) -> bool:
        if op.name in _MULTIPLY:
            return sum(self.from_input[i] and self.from_weight[i] for i in op.inputs) > 1
        return op.name not in _LINEAR and not is_layer(op.name) and any(self.from_weight[i] for i in op.outputs)


def _kept_positions(graph: PruningGraph, keep: NDArray[np.bool_], value: int) -> Mapping[int, NDArray[np.bool_]] | None:
    """The positions of a value that stay, read off the layer that its channels come from; None if none tells them."""
    program, sites = graph.program, {site.op: site for site in graph.sites}
    layer, dim = _origin(program, sites, value)
    if layer is None:
        return {} if keep.all() else None
    site = sites[layer.index]
    found = {dim: site.outputs_to_keep(keep), **site.rows_to_keep(keep)}
    return found if all(stay.any() for stay in found.values()) else None


def _origin(program: Program, sites: Mapping[int, object] | Sequence[int], value: int) -> tuple[Op | None, int]:
    """The layer whose channels a value has, over ops that change none of their number; and their dimension."""
    shape = program.values[value].shape
    while (producer := program.values[value].producer) >= 0:
        op = program.ops[producer]
        if op.index in sites:
            return op, channel_dim(op)
        same = [
            i for i in op.inputs if _same_channels(program.values[i].shape, shape) and program.values[i].producer >= 0
        ]
        if not same:
            break
        value = max(same, key=lambda index: program.values[index].producer)
    return None, 0


def _same_channels(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """True if shapes differ at most in the sizes of maps."""
    if len(one) != len(other):
        return False
    return one == other or (len(one) > 2 and one[:2] == other[:2])
