"""Costs of a network as functions of the number of nodes that each group keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mipp.graph.nodes import PruningGraph
from mipp.plan.quantities import Floats, Quantity
from mipp.plan.registry import CONSTRAINTS

if TYPE_CHECKING:
    from mipp.plan.latency import LayerTimes


@dataclass(frozen=True)
class Cost:
    """Cost functions of one network.

    Attributes:
        groups: Names of the groups; widths are given in this order.
        sizes: Nodes of every group, shape [groups].
        quantities: The functions, by name of the constraint.
        times: Measured times, where there are any.
        multiples: Numbers that the widths of some groups are multiples of, by group.
        alike: Groups with the same name here have one width, by group; of those that have it with others.
    """

    groups: tuple[str, ...]
    sizes: Floats
    quantities: Mapping[str, Quantity]
    times: "LayerTimes | None" = None
    multiples: Mapping[str, int] = field(default_factory=dict)
    alike: Mapping[str, str] = field(default_factory=dict)

    def widths(self, kept: Mapping[str, int]) -> Floats:
        """Widths as an array, shape [groups]; groups not named are whole."""
        return np.array([kept.get(n, int(s)) for n, s in zip(self.groups, self.sizes, strict=True)], float)

    def value(self, name: str, widths: Floats) -> float:
        """A quantity at the given widths; an emptied group still costs the one silent node that stands in for it."""
        return self.quantities[name](self.present(name, widths))

    def per_group(self, name: str, widths: Floats) -> Floats:
        """The saving of one node less in each group at the given widths, shape [groups]."""
        return self.quantities[name].per_group(self.present(name, widths))

    def present(self, name: str, widths: Floats) -> Floats:
        """The nodes that count, shape [groups]."""
        return np.maximum(widths, 1) if CONSTRAINTS[name].counts_silent else widths

    def dense(self, name: str) -> float:
        return self.quantities[name](self.sizes)

    def estimate(self, name: str, kept: Mapping[str, int]) -> float:
        """A quantity of a network with these widths, although it can be measured: nothing is run."""
        return self.value(name, self.widths(kept))


def cost_of(graph: PruningGraph, times: "LayerTimes | None" = None) -> Cost:
    """Cost functions of a pruning graph; with measured times of its layers also of its latency."""
    names = tuple(graph.groups)
    sizes = np.array([g.size for g in graph.groups.values()], float)
    made = {name: constraint.quantity(graph, names, times) for name, constraint in CONSTRAINTS.items()}
    quantities = {name: quantity for name, quantity in made.items() if quantity is not None}
    multiples = {name: group.multiple for name, group in graph.groups.items() if group.multiple > 1}
    alike = {name: group.alike for name, group in graph.groups.items() if group.alike}
    return Cost(names, sizes, quantities, times, multiples, alike)


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
