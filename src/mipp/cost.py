"""What a network costs, as functions of how many nodes each group keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.benchmark import Timer

from mipp.graph.copies import working_copy
from mipp.graph.groups import PruningGraph, Work
from mipp.graph.trace import Call, forward

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """A sum of products of axis lengths that are linear in the widths of the groups."""

    coefficient: Floats
    fixed: Floats
    per_node: Floats

    def __call__(self, widths: Floats) -> float:
        """The value at `widths` kept nodes per group, shape [groups]."""
        return float(self.coefficient @ self._sizes(widths).prod(1))

    def per_group(self, widths: Floats) -> Floats:
        """How much one more node of each group adds, shape [groups]."""
        sizes = self._sizes(widths)
        out = np.zeros(self.per_node.shape[2])
        for axis in range(sizes.shape[1]):
            others = np.delete(sizes, axis, axis=1).prod(1)
            out += (self.coefficient * others) @ self.per_node[:, axis]
        return out

    def _sizes(self, widths: Floats) -> Floats:
        return self.fixed + self.per_node @ widths


@dataclass(frozen=True)
class Cost:
    """Cost functions of one network: MACs per sample, parameters, and nodes in prunable groups.

    Attributes:
        groups: Names of the groups; widths are given in this order.
        sizes: Nodes of every group, shape [groups].
    """

    groups: tuple[str, ...]
    sizes: Floats
    quantities: Mapping[str, Quantity]

    def widths(self, kept: Mapping[str, int]) -> Floats:
        """Widths as an array, shape [groups]; groups not named are whole."""
        return np.array([kept.get(n, int(s)) for n, s in zip(self.groups, self.sizes, strict=True)], float)

    def value(self, name: str, widths: Floats) -> float:
        """A quantity at the given widths; an emptied group still costs the one silent node that stands in for it."""
        return self.quantities[name](widths if name == "nodes" else np.maximum(widths, 1))

    def dense(self, name: str) -> float:
        return self.quantities[name](self.sizes)


def cost_of(graph: PruningGraph) -> Cost:
    """Cost functions of a pruning graph."""
    names = tuple(graph.groups)
    sizes = np.array([g.size for g in graph.groups.values()], float)
    nodes = Quantity(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, len(names))))
    quantities = {
        "macs": _quantity(graph.macs, names, 1 / graph.batch),
        "params": _quantity(graph.params, names, 1.0),
        "nodes": nodes,
    }
    return Cost(names, sizes, quantities)


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


def _quantity(works: Sequence[Work], names: tuple[str, ...], unit: float) -> Quantity:
    column = {name: i for i, name in enumerate(names)}
    merged: dict[tuple[tuple[int, tuple[tuple[str, int], ...]], ...], float] = {}
    for work in works:
        key = tuple((s.fixed, tuple(sorted(s.per_node.items()))) for s in work.sizes)
        merged[key] = merged.get(key, 0.0) + work.coefficient * unit
    depth = max((len(key) for key in merged), default=1) or 1
    fixed = np.ones((len(merged), depth))
    per_node = np.zeros((len(merged), depth, len(names)))
    for row, key in enumerate(merged):
        for axis, (constant, linear) in enumerate(key):
            fixed[row, axis] = constant
            for name, count in linear:
                per_node[row, axis, column[name]] = count
    return Quantity(np.array(list(merged.values())), fixed, per_node)


def latency_ms(model: nn.Module, call: Call, seconds: float = 0.3) -> float:
    """Median time of one forward pass in milliseconds, in eval and inference mode, all threads.

    Source: `torch.utils.benchmark`, which warms up and synchronises.
    """
    names = {"forward": forward, "model": working_copy(model), "call": call}
    timer = Timer("forward(model, call)", globals=names, num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=seconds).median
