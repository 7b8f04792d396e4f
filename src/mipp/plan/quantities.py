"""Functions of how many nodes each group keeps: sums of products of widths, and what is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mipp.graph.nodes import Activation, Work

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Quantity(Protocol):
    """A function of the widths of the groups, which are given as an array of shape [groups]."""

    def __call__(self, widths: Floats) -> float:
        """The value at `widths` kept nodes per group."""

    def per_group(self, widths: Floats) -> Floats:
        """The saving of one node less in each group, shape [groups]; 0 where a single node saves nothing."""


@dataclass(frozen=True)
class Sum:
    """A sum of products of axis lengths that are linear in the widths of the groups.

    Attributes:
        coefficient: Factor of every product, shape [terms].
        fixed: Lengths without any node, shape [terms, axes].
        per_node: Positions per node, shape [terms, axes, groups].
    """

    coefficient: Floats
    fixed: Floats
    per_node: Floats

    @classmethod
    def of(cls, works: "Sequence[Work]", groups: Sequence[str], unit: float, *, merged: bool = True) -> "Sum":
        """A term per product of widths, times `unit`; or one per piece of work, if they are not `merged`."""
        column = {name: i for i, name in enumerate(groups)}
        terms: dict[tuple[Any, int], float] = {}
        for number, work in enumerate(works):
            key = tuple((s.fixed, tuple(sorted(s.per_node.items()))) for s in work.sizes), 0 if merged else number
            terms[key] = terms.get(key, 0.0) + work.coefficient * unit
        depth = max((len(key) for key, _ in terms), default=1) or 1
        fixed = np.ones((len(terms), depth))
        per_node = np.zeros((len(terms), depth, len(groups)))
        for row, (key, _) in enumerate(terms):
            for axis, (constant, linear) in enumerate(key):
                fixed[row, axis] = constant
                for name, count in linear:
                    per_node[row, axis, column[name]] = count
        return cls(np.array(list(terms.values())), fixed, per_node)

    @classmethod
    def of_widths(cls, groups: int) -> "Sum":
        """The sum of the widths themselves."""
        return cls(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, groups)))

    def __call__(self, widths: Floats) -> float:
        return float(self.terms(widths).sum())

    def terms(self, widths: Floats) -> Floats:
        """The products that the value is the sum of, shape [terms]."""
        products: Floats = self.coefficient * self._sizes(widths).prod(1)
        return products

    def per_group(self, widths: Floats, weights: Floats | None = None) -> Floats:
        """The saving of one node less in each group, shape [groups]; each term times its weight, if given."""
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
class Peak:
    """The largest sum of products of widths at any one of several times.

    Attributes:
        terms: The products, in whole numbers.
        start: First time at which each counts, shape [terms].
        end: Last time, shape [terms].
        unit: Factor of the result.
    """

    terms: Sum
    start: Ints
    end: Ints
    unit: float

    @classmethod
    def of(cls, activations: "Sequence[Activation]", groups: Sequence[str], unit: float) -> "Peak":
        """The most memory that is held at one time, in bytes times `unit`."""
        terms = Sum.of([a.bytes for a in activations], groups, 1.0, merged=False)
        return cls(terms, np.array([a.start for a in activations]), np.array([a.end for a in activations]), unit)

    def __call__(self, widths: Floats) -> float:
        return float(self._at_all_times(widths).max(initial=0)) * self.unit

    def per_group(self, widths: Floats) -> Floats:
        """The saving of one node less in each group at the time of the peak, shape [groups]."""
        sums = self._at_all_times(widths)
        time = sums.argmax() if len(sums) else 0
        held = ((self.start <= time) & (time <= self.end)).astype(np.float64)
        return self.unit * self.terms.per_group(widths, held)

    def _at_all_times(self, widths: Floats) -> Floats:
        products = self.terms.terms(widths)
        change = np.zeros(int(self.end.max(initial=-1)) + 2)
        np.add.at(change, self.start, products)
        np.subtract.at(change, self.end + 1, products)
        sums: Floats = change.cumsum()[:-1]
        return sums
