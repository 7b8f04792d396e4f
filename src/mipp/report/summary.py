"""The content of both renderings: the rows of the summary, and frozen layers grouped by reason."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from mipp.plan.registry import CONSTRAINTS
from mipp.report import figures

if TYPE_CHECKING:
    from mipp.graph.nodes import NodeGroup
    from mipp.report.data import FrozenLine, GroupLine, Report

MANY = 60
"""Groups, from which on kinds of groups are shown first."""


@dataclass(frozen=True)
class Row:
    """One quantity of every model: the dense one, the pruned one, and each later stage.

    Args:
        key: its name in the budget, or the name of the metric.
        label: its name for people.
        values: one value per model; None where it was not measured.
        write: how a value is written.
        is_metric: whether it is a metric, for which the difference counts and not the ratio.
    """

    key: str
    label: str
    values: tuple[float | None, ...]
    write: Callable[[float], str]
    is_metric: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """The values as text."""
        return tuple(figures.ABSENT if value is None else self.write(value) for value in self.values)

    @property
    def exact(self) -> tuple[str, ...]:
        """The values as text, counts with all their digits."""
        pairs = zip(self.values, self.cells, strict=True)
        return tuple(f"{value:,}" if isinstance(value, int) else cell for value, cell in pairs)

    @property
    def ratio(self) -> float | None:
        """Pruned / dense; None for a metric, or where it is no number."""
        return None if self.is_metric else figures.ratio(self.values[1], self.values[0])

    @property
    def change(self) -> str:
        """The change from dense to pruned as text: a difference for a metric, else a factor."""
        return self.change_to(1)

    def change_to(self, model: int) -> str:
        """Write the change from the dense model to another one."""
        dense, other = self.values[0], self.values[model]
        if not self.is_metric:
            return figures.times(figures.ratio(other, dense))
        return figures.ABSENT if dense is None or other is None else figures.difference(other, dense)


def rows(report: "Report") -> tuple[Row, ...]:
    """Return the rows of the summary: the metrics, then the sizes, then the latency where it was measured."""
    models = (report.before, report.after, *report.stages.values())
    names = dict.fromkeys(name for model in models for name in model.metrics)
    metrics = (
        Row(name, name, tuple(m.metrics.get(name) for m in models), figures.figure, is_metric=True) for name in names
    )
    sizes = (
        Row(c.name, c.label, tuple(getattr(m, c.name) for m in models), figures.BY_UNIT[c.unit])
        for c in (CONSTRAINTS[field.name] for field in fields(report.before) if field.name in CONSTRAINTS)
    )
    return (*metrics, *(row for row in sizes if any(value is not None for value in row.values)))


def group_by_reason(frozen: tuple["FrozenLine", ...]) -> dict[str, dict[tuple[str, str], list["FrozenLine"]]]:
    """Group frozen layers by reason, and within a reason by operator and source line."""
    reasons: dict[str, dict[tuple[str, str], list[FrozenLine]]] = {}
    for line in frozen:
        reasons.setdefault(line.reason, {}).setdefault((line.op, line.source), []).append(line)
    return reasons


def kinds(groups: tuple["GroupLine", ...]) -> tuple["GroupLine", ...]:
    """The groups whose names differ in numbers only, summed up: `layers.*.mlp × 30`; empty where that is no shorter.

    Information is that of the group that lost the largest share.
    """
    found: dict[str, list[GroupLine]] = {}
    for line in groups:
        found.setdefault(re.sub(r"\d+", "*", line.name), []).append(line)
    return tuple(_sum_up(name, lines) for name, lines in found.items()) if 4 * len(found) <= len(groups) else ()


def _sum_up(name: str, lines: list["GroupLine"]) -> "GroupLine":
    known = [(line.information_kept, line) for line in lines if line.information_kept is not None]
    worst = min(known, key=lambda pair: pair[0])[1] if known else None
    return replace(
        lines[0],
        name=f"{name} × {len(lines)}" if len(lines) > 1 else lines[0].name,
        size=sum(line.size for line in lines),
        kept=sum(line.kept for line in lines),
        nats=worst.nats if worst else None,
        total_nats=worst.total_nats if worst else None,
        macs_before=sum(line.macs_before for line in lines),
        macs_after=sum(line.macs_after for line in lines),
        sensitivity=(),
    )


def narrowest(groups: tuple["GroupLine", ...], number: int) -> tuple["GroupLine", ...]:
    """The groups that keep the smallest share of their nodes, that first."""
    return tuple(sorted(groups, key=lambda line: line.kept / max(line.size, 1))[:number])


def budget(report: "Report") -> dict[str, str]:
    """Return what was asked for as text, with the slack where it is known; what was left open is left out."""
    asked = {name: _format(value) for name, value in report.budget.items() if value is not None and value != {}}
    for name, slack in report.slack.items():
        if math.isfinite(slack):
            asked[name] = f"{asked.get(name, figures.ABSENT)} ({figures.slack(slack)})"
    return asked


def _format(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def by_multiple(groups: "Iterable[GroupLine | NodeGroup]") -> dict[int, tuple[str, ...]]:
    """Names of the groups that ops take certain multiples of only, by multiple."""
    found: dict[int, tuple[str, ...]] = {}
    for group in groups:
        if group.multiple > 1:
            found[group.multiple] = (*found.get(group.multiple, ()), group.name)
    return found
