"""A report as text for a terminal, at most 80 columns wide."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mipp.errors import few
from mipp.report import figures, summary
from mipp.report.curve import Curve, curve_of
from mipp.runtime.record import WARNING

if TYPE_CHECKING:
    from mipp.report.data import FrozenLine, GroupLine, Report

WIDTH = 80
_BAR = 10
_EIGHTHS = " ▏▎▍▌▋▊▉"
_COLUMNS = 5
_FEW = 10


def render(report: "Report", width: int) -> RenderableType:
    """Return everything the report says, laid out for `width` columns."""
    return Group(*_blocks(report, width))


def as_string(shown: RenderableType) -> str:
    """The text that a terminal of 80 columns without colours shows."""
    file = io.StringIO()
    plain = {"color_system": None, "force_terminal": False, "force_jupyter": False, "legacy_windows": False}
    Console(file=file, width=WIDTH, **plain).print(shown)  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).strip("\n")


def _blocks(report: "Report", width: int) -> Iterator[RenderableType]:
    for warning in report.warnings:
        yield _text(f"{WARNING}{warning}", "bold red")
    yield _text(f"{report.model} pruned", "bold")
    yield _pairs({"method": report.method, "budget": _join(summary.budget(report), "=")})
    yield from _summary(report)
    if curve := curve_of(report):
        yield _heading(f"{curve.quality} against {curve.size}")
        yield _curve(curve)
    if report.groups:
        yield from _group_section(report.groups, width)
    if report.collapsed:
        yield _heading("Collapsed: every node was removed, a silent mask is left")
        yield _indent(_text(", ".join(report.collapsed)), 2)
    if report.frozen:
        yield from _frozen_section(report.frozen)
    if notes := [note for note in report.notes if not note.startswith(WARNING)]:
        yield _heading("Notes")
        yield _pairs_of([("·", note) for note in notes])
    record = {"call": report.call, "seconds": _seconds(report), "versions": _join(report.versions, " ")}
    if any(record.values()):
        yield _heading("Record")
        yield _pairs(record)


def _summary(report: "Report") -> Iterator[RenderableType]:
    rows = summary.rows(report)
    columns = [("dense", [row.cells[0] for row in rows]), ("pruned", [row.cells[1] for row in rows])]
    columns.append(("change", [row.change for row in rows]))
    columns += [(name, [row.cells[2 + i] for row in rows]) for i, name in enumerate(report.stages)]
    for start in range(0, len(columns), _COLUMNS):
        shown = columns[start : start + _COLUMNS]
        table = _table()
        table.add_column("", max_width=14)
        for name, _ in shown:
            table.add_column(_text(figures.shorten(name, 11), "dim"), justify="right")
        for i, row in enumerate(rows):
            label = figures.shorten(row.label, 14)
            table.add_row(Text(label), *(Text(cells[i], style=_emphasis(name)) for name, cells in shown))
        yield Text()
        yield table


def _curve(curve: Curve) -> RenderableType:
    table = _table()
    for header in (curve.size, curve.quality, ""):
        table.add_column(_text(header, "dim"), justify="right")
    for point in curve.points:
        here = "this one" if point.chosen else "dense" if point.dense else ""
        table.add_row(*point.cells, here, style="bold" if point.chosen else "")
    return table


def _group_section(groups: tuple["GroupLine", ...], width: int) -> Iterator[RenderableType]:
    """All groups; of many, their kinds and those that keep least."""
    kinds = summary.kinds(groups) if len(groups) > summary.MANY else ()
    how = "by kind; nats are those of the worst" if kinds else "from input to output"
    yield _heading(f"{figures.plural(len(groups), 'group')}, {how}")
    yield _groups(kinds or groups, width)
    if kinds:
        yield _heading("The groups that keep least (report.to_html shows all)")
        yield _groups(summary.narrowest(groups, _FEW), width)
    for multiple, names in summary.by_multiple(groups).items():
        yield _indent(_text(f"In multiples of {multiple} nodes, as ops demand: {few(names)}"), 2)


def _groups(groups: tuple["GroupLine", ...], width: int) -> RenderableType:
    measured = any(line.information_kept is not None for line in groups)
    rest = [_row(line)[: 4 if measured else 3] for line in groups]
    taken = [max(len(cell.plain) for cell in column) for column in zip(*rest, strict=True)]
    room = max(8, width - sum(max(size, 7) + 2 for size in taken) - 2)
    table = _table()
    table.add_column("")
    for header in ("kept", "", "MACs", "nats kept")[: len(taken)]:
        table.add_column(_text(header, "dim"), justify="left" if header == "" else "right", no_wrap=True)
    for line, cells in zip(groups, rest, strict=True):
        table.add_row(Text(figures.shorten(line.name, room)), *cells)
    return table


def _row(line: "GroupLine") -> tuple[Text, ...]:
    information = "" if line.information_kept is None else figures.percent(line.information_kept)
    return (
        Text(f"{line.kept:,} / {line.size:,}"),
        Text(_bar(line.kept / line.size if line.size else 0.0), style="cyan"),
        Text(figures.times(figures.ratio(line.macs_after, line.macs_before))),
        Text(information or figures.ABSENT),
    )


def _bar(fraction: float) -> str:
    eighths = round(8 * _BAR * min(max(fraction, 0.0), 1.0))
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(_BAR, "·")


def _frozen_section(frozen: tuple["FrozenLine", ...]) -> Iterator[RenderableType]:
    nodes = sum(line.nodes for line in frozen)
    yield _heading(f"Frozen: {figures.plural(len(frozen), 'layer')} with {figures.plural(nodes, 'node')}, kept whole")
    for reason, places in summary.group_by_reason(frozen).items():
        yield _indent(_text(reason), 2)
        for (op, source), lines in places.items():
            names = ", ".join(f"{line.name} ({line.nodes:,})" for line in lines)
            where = " · ".join(part for part in (op, source) if part)
            if where:
                yield _indent(_text(where, "dim"), 4)
            yield _indent(_text(names), 4)


def _seconds(report: "Report") -> str:
    if not report.seconds:
        return ""
    phases = {**report.seconds, "total": sum(report.seconds.values())}
    return _join({name: f"{value:,.2f}" for name, value in phases.items()}, " ")


def _join(values: dict[str, str], sign: str) -> str:
    return " · ".join(f"{name}{sign}{value}" for name, value in values.items())


def _pairs(values: dict[str, str]) -> RenderableType:
    return _pairs_of([(name, value) for name, value in values.items() if value])


def _pairs_of(values: list[tuple[str, str]]) -> RenderableType:
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.show_header = False
    for name, value in values:
        table.add_row(_text(name, "dim"), _text(value))
    return table


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, collapse_padding=True)


def _heading(title: str) -> RenderableType:
    return Padding(_text(title, "bold"), (1, 0, 0, 0))


def _indent(content: Text, columns: int) -> RenderableType:
    return Padding(content, (0, 0, 0, columns))


def _text(content: str, style: str = "") -> Text:
    return Text(figures.printable(content), style=style, overflow="fold")


def _emphasis(column: str) -> str:
    return {"dense": "dim", "pruned": "bold"}.get(column, "")
