"""The table of the kinds of budgets; `mipp.plan.constraints` fills it, and the package loads that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Optional

if TYPE_CHECKING:
    from torch import nn

    from mipp.graph.call import Call
    from mipp.graph.nodes import PruningGraph
    from mipp.plan.latency import LayerTimes
    from mipp.plan.quantities import Quantity

QuantityOf = Callable[["PruningGraph", Sequence[str], Optional["LayerTimes"]], Optional["Quantity"]]
"""Called with a graph, the names of its groups in the order of the widths, and measured times if there are any."""


@dataclass(frozen=True)
class Constraint:
    """A number that a budget limits.

    Attributes:
        name: Its field of `mipp.Budget` and of `Measures`, and its name in reports and on the command line.
        label: Its name for people.
        meaning: What is counted, for the help of the command line.
        quantity: Makes its function of the widths: one that adds up, a `Sum`, or another. None: times are lacking.
        unit: Of absolute amounts; "" for a count.
        counts_silent: The silent node that stands in for an emptied group counts.
        measure: Takes it of a network called on a batch in a runtime, for reports; None: the function of the widths is
            exact.
        is_estimated: The function of the widths is an estimate, and a budget holds for what `measure` says.
    """

    name: str
    label: str
    meaning: str
    quantity: QuantityOf
    unit: Literal["", "ms", "bytes"] = ""
    counts_silent: bool = True
    measure: Callable[["nn.Module", "Call", str], float] | None = None
    is_estimated: bool = False

    @property
    def is_whole(self) -> bool:
        """True if absolute amounts are whole numbers."""
        return self.unit != "ms"


CONSTRAINTS: dict[str, Constraint] = {}
"""Every kind of budget by name."""


def register(constraint: Constraint) -> None:
    """Adds a kind of budget."""
    CONSTRAINTS[constraint.name] = constraint
