"""Costs of a network as functions of the number of nodes that each group keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.benchmark import Timer

from mipp.graph.nodes import PruningGraph, Work
from mipp.graph.program import Call
from mipp.graph.trace import forward
from mipp.modules.copies import working_copy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """A sum of products of axis lengths that are linear in the widths of the groups."""

    coefficient: Floats
    fixed: Floats
    per_node: Floats

    def __call__(self, widths: Floats) -> float:
        """The value at `widths` kept nodes per group, shape [groups]."""
        return float(self.terms(widths).sum())

    def terms(self, widths: Floats) -> Floats:
        """The products that the value is the sum of, shape [terms]."""
        products: Floats = self.coefficient * self._sizes(widths).prod(1)
        return products

    def per_group(self, widths: Floats, weights: Floats | None = None) -> Floats:
        """The cost that one more node of each group adds, shape [groups]; each term times its weight, if given."""
        sizes = self._sizes(widths)
        coefficient = self.coefficient if weights is None else self.coefficient * weights
        out = np.zeros(self.per_node.shape[2])
        for axis in range(sizes.shape[1]):
            others = np.delete(sizes, axis, axis=1).prod(1)
            out += (coefficient * others) @ self.per_node[:, axis]
        return out

    def _sizes(self, widths: Floats) -> Floats:
        return self.fixed + self.per_node @ widths


@dataclass(frozen=True)
class LayerTimes:
    """Measured milliseconds of every layer at several sizes.

    Attributes:
        layers: Which ops count as one layer: their indices, by layer.
        macs: MACs per sample at which a layer was measured, ascending, shape [layers, sizes].
        ms: What it took, shape [layers, sizes].
    """

    layers: tuple[tuple[int, ...], ...]
    macs: Floats
    ms: Floats


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a network: a sum over its layers, each between two measured sizes as a straight line.

    Attributes:
        macs: MACs per sample, a term per op and product of widths.
        layer: The layer of every term, shape [terms].
        times: What was measured.
    """

    macs: Quantity
    layer: NDArray[np.int64]
    times: LayerTimes

    def __call__(self, widths: Floats) -> float:
        """The value at `widths` kept nodes per group, shape [groups]."""
        return float(self._ms(self.sizes(widths)).sum())

    def per_group(self, widths: Floats) -> Floats:
        """The cost that one more node of each group adds, shape [groups].

        Kernels take steps, on which a single node costs nothing: the slope is that from the smallest size measured.
        """
        sizes, least = self.sizes(widths), self.times.macs[:, 0]
        above = np.maximum(sizes - least, (self.times.macs[:, -1] - least) / 100 + 1e-300)
        slopes = (self._ms(least + above) - self.times.ms[:, 0]) / above
        return self.macs.per_group(widths, np.maximum(slopes, 0)[self.layer])

    def sizes(self, widths: Floats) -> Floats:
        """MACs of every layer, shape [layers]."""
        found: Floats = np.bincount(self.layer, self.macs.terms(widths), len(self.times.layers)).astype(float)
        return found

    def _ms(self, sizes: Floats) -> Floats:
        return np.array([np.interp(*row) for row in zip(sizes, self.times.macs, self.times.ms, strict=True)])


@dataclass(frozen=True)
class Cost:
    """Cost functions of one network: MACs per sample, parameters, and nodes in prunable groups.

    Attributes:
        groups: Names of the groups; widths are given in this order.
        sizes: Nodes of every group, shape [groups].
        times: Measured times, if latency is among the quantities.
    """

    groups: tuple[str, ...]
    sizes: Floats
    quantities: Mapping[str, Quantity | Latency]
    times: LayerTimes | None = None

    def widths(self, kept: Mapping[str, int]) -> Floats:
        """Widths as an array, shape [groups]; groups not named are whole."""
        return np.array([kept.get(n, int(s)) for n, s in zip(self.groups, self.sizes, strict=True)], float)

    def value(self, name: str, widths: Floats) -> float:
        """A quantity at the given widths; an emptied group still costs the one silent node that stands in for it."""
        return self.quantities[name](widths if name == "nodes" else np.maximum(widths, 1))

    def dense(self, name: str) -> float:
        return self.quantities[name](self.sizes)

    def table_ms(self, kept: Mapping[str, int]) -> float:
        """Latency as the sum of layers measured before: exact enough on the way to a budget, and nothing is run."""
        return self.value("latency_ms", self.widths(kept))


def cost_of(graph: PruningGraph, times: LayerTimes | None = None) -> Cost:
    """Cost functions of a pruning graph; with measured times of its layers also of its latency."""
    names = tuple(graph.groups)
    sizes = np.array([g.size for g in graph.groups.values()], float)
    nodes = Quantity(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, len(names))))
    quantities: dict[str, Quantity | Latency] = {
        "macs": _quantity(graph.macs, names, 1 / graph.batch),
        "params": _quantity(graph.params, names, 1.0),
        "nodes": nodes,
    }
    if times is not None:
        layer = {op: number for number, ops in enumerate(times.layers) for op in ops}
        terms = _quantity(graph.macs, names, 1 / graph.batch, merged=False)
        quantities["latency_ms"] = Latency(terms, np.array([layer[work.op] for work in graph.macs]), times)
    return Cost(names, sizes, quantities, times)


def group_macs(graph: PruningGraph, kept: Mapping[str, int]) -> dict[str, int]:
    """MACs per sample of the layers that produce each group, at the given widths (groups not named are whole)."""
    width = {name: max(kept.get(name, group.size), 1) for name, group in graph.groups.items()}
    producer = {site.op: site.writes for site in graph.sites}
    total = dict.fromkeys(graph.groups, 0.0)
    for work in graph.macs:
        macs = float(work.coefficient) / graph.batch
        for size in work.sizes:
            macs *= size.fixed + sum(count * width[name] for name, count in size.per_node.items())
        nodes = producer.get(work.op, np.empty(0, np.int64))
        for group in graph.groups.values():
            if group.holds(nodes).any():
                total[group.name] += macs
    return {name: round(macs) for name, macs in total.items()}


def _quantity(works: Sequence[Work], names: tuple[str, ...], unit: float, *, merged: bool = True) -> Quantity:
    """A term per product of widths, or one per piece of work."""
    column = {name: i for i, name in enumerate(names)}
    terms: dict[tuple[Any, int], float] = {}
    for number, work in enumerate(works):
        key = tuple((s.fixed, tuple(sorted(s.per_node.items()))) for s in work.sizes), 0 if merged else number
        terms[key] = terms.get(key, 0.0) + work.coefficient * unit
    depth = max((len(key) for key, _ in terms), default=1) or 1
    fixed = np.ones((len(terms), depth))
    per_node = np.zeros((len(terms), depth, len(names)))
    for row, (key, _) in enumerate(terms):
        for axis, (constant, linear) in enumerate(key):
            fixed[row, axis] = constant
            for name, count in linear:
                per_node[row, axis, column[name]] = count
    return Quantity(np.array(list(terms.values())), fixed, per_node)


def latency_ms(model: nn.Module, call: Call, seconds: float = 0.3) -> float:
    """Median time of one forward pass in milliseconds, in eval and inference mode, all threads.

    Source: `torch.utils.benchmark`, which warms up and synchronises.
    """
    names = {"forward": forward, "model": working_copy(model), "call": call}
    timer = Timer("forward(model, call)", globals=names, num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=seconds).median
