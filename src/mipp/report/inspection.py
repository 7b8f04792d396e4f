"""The result of `mipp.inspect`: groups, costs, and every frozen layer with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

from mipp.errors import few
from mipp.graph.nodes import Frozen, NodeGroup, PruningGraph
from mipp.plan.cost import Cost
from mipp.plan.registry import CONSTRAINTS
from mipp.report.figures import BY_UNIT, plural, printable
from mipp.report.summary import by_multiple


@dataclass(frozen=True)
class Inspection:
    """The pruning graph of a model with its costs; prints as a table.

    Attributes:
        model: Class name of the model.
        graph: Groups, frozen layers, and the traced ops.
        cost: MACs, parameters and nodes as functions of the widths.
    """

    model: str
    graph: PruningGraph
    cost: Cost

    @property
    def groups(self) -> Mapping[str, NodeGroup]:
        """Node groups by name, in data-flow order."""
        return self.graph.groups

    @property
    def frozen(self) -> tuple[Frozen, ...]:
        """Layers whose nodes stay, each with the reason, the op and the source line."""
        return self.graph.frozen

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return round(self.cost.dense("macs"))

    @property
    def params(self) -> int:
        """Number of parameters."""
        return round(self.cost.dense("params"))

    @property
    def num_nodes(self) -> int:
        """Nodes in all groups together."""
        return self.graph.num_nodes

    @property
    def costs(self) -> dict[str, int]:
        """The costs by constraint: macs, params, nodes, ..."""
        return {name: round(self.cost.dense(name)) for name in self.cost.quantities}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {
            "model": self.model,
            **self.costs,
            "groups": [
                {
                    "name": g.name,
                    "size": g.size,
                    "multiple": g.multiple,
                    "producers": list(g.producers),
                    "consumers": list(g.consumers),
                }
                for g in self.groups.values()
            ],
            "frozen": [vars(f) for f in self.frozen],
        }

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table
        from rich.text import Text

        groups = plural(len(self.groups), "group")
        yield Text(f"{self.model}: {', '.join([groups, *map(_describe, self.costs, self.costs.values())])}")
        table = Table(box=None, pad_edge=False)
        for heading in ("group", "nodes", "read by"):
            table.add_column(heading, justify="right" if heading == "nodes" else "left", overflow="fold")
        for group in self.groups.values():
            table.add_row(Text(printable(group.name)), str(group.size), Text(printable(few(group.consumers))))
        yield table
        for multiple, names in by_multiple(self.groups.values()).items():
            yield Text(printable(f"\nin multiples of {multiple} nodes: {few(names)}"))
        if self.frozen:
            yield Text("\nfrozen")
        for line in self.frozen:
            where = f" ({line.op} at {line.source})" if line.source else ""
            yield Text(printable(f"  {line.name}, {plural(line.nodes, 'node')}: {line.reason}{where}"))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        from mipp.report import text

        return text.as_string(self)


def _describe(name: str, amount: int) -> str:
    """An amount with what it is, such as `1.3 k parameters`."""
    return f"{BY_UNIT[CONSTRAINTS[name].unit](amount)} {CONSTRAINTS[name].label}"
