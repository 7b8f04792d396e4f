"""The numbers of a report, and their JSON form."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsFloat

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

from mipp.errors import MippError
from mipp.runtime.paths import as_path
from mipp.runtime.record import warnings_of
from mipp.runtime.typed import FormError, as_type


@dataclass(frozen=True)
class Measures:
    """The size, speed and quality of one model.

    Args:
        params: number of parameters.
        macs: multiply-accumulates per sample.
        nodes: nodes in prunable groups.
        latency_ms: median time for one example batch in milliseconds; None when it was not measured.
        activations: bytes that activations of one sample take at their peak; None in reports of earlier versions.
        metrics: what `evaluate` returned, a single float as `{"score": x}`; empty without `evaluate`.
    """

    params: int
    macs: int
    nodes: int
    latency_ms: float | None
    metrics: dict[str, float]
    activations: int | None = None


@dataclass(frozen=True)
class GroupLine:
    """One group before and after pruning.

    Args:
        name: name of the group, a module path.
        size: nodes before.
        kept: nodes after.
        nats: information about its readers that the removed nodes took with them; None when the method does not
            measure it.
        total_nats: information of the whole group about its readers.
        macs_before: multiply-accumulates per sample of the layers that produce the group, before.
        macs_after: the same, after.
        sensitivity: the share of its information that none, a tenth, ... and all of its nodes carry, 11 numbers; empty
            when it was not measured.
        multiple: the ops that run over the nodes take multiples of this only.
    """

    name: str
    size: int
    kept: int
    nats: float | None
    total_nats: float | None
    macs_before: int
    macs_after: int
    sensitivity: tuple[float, ...] = ()
    multiple: int = 1

    @property
    def information_kept(self) -> float | None:
        """The fraction of the group's information that its kept nodes carry; None when it was not measured."""
        if self.nats is None or self.total_nats is None or not self.total_nats > 0:
            return None
        fraction = 1 - self.nats / self.total_nats
        return fraction if math.isfinite(fraction) else None


@dataclass(frozen=True)
class FrontierPoint:
    """One of the networks on a curve of quality against size.

    Args:
        measures: its size, speed and quality.
        information_kept: the share of the information of all groups that their kept nodes carry; None when unknown.
    """

    measures: Measures
    information_kept: float | None


@dataclass(frozen=True)
class FrozenLine:
    """One layer whose nodes were all kept because they could not be removed.

    Args:
        name: name of the layer, a module path.
        nodes: its number of nodes.
        reason: why it is frozen.
        op: the operator that froze it.
        source: where that operator is called, as `file.py:12`.
    """

    name: str
    nodes: int
    reason: str
    op: str
    source: str


@dataclass(frozen=True)
class Report:
    """The report of a pruning, as data.

    `print(report)` shows it as text of at most 80 columns; a rich console shows the same in colour.

    Args:
        model: class name of the model.
        method: `repr` of the method.
        call: the exact call, as text.
        budget: what was asked for.
        before: measures of the dense model.
        after: measures of the pruned model.
        stages: measures of later stages by name, such as `{"fine-tuned": Measures(...)}`.
        groups: one line per group, in data-flow order.
        frozen: one line per layer that could not be pruned.
        collapsed: names of the emptied groups.
        notes: what the reader should know besides; warnings begin with "Warning: ".
        slack: per constraint of the budget, limit minus reached, as a fraction of the dense model.
        seconds: time per phase.
        versions: versions of the packages involved.
        frontier: the networks that were made together with this one, which is among them; empty for one made alone.
    """

    model: str
    method: str
    call: str
    budget: dict[str, object]
    before: Measures
    after: Measures
    stages: dict[str, Measures]
    groups: tuple[GroupLine, ...]
    frozen: tuple[FrozenLine, ...]
    collapsed: tuple[str, ...]
    notes: tuple[str, ...]
    slack: dict[str, float]
    seconds: dict[str, float]
    versions: dict[str, str]
    frontier: tuple[FrontierPoint, ...] = ()

    @property
    def point(self) -> FrontierPoint:
        """The network as one of a frontier."""
        known = [(line.nats, line.total_nats) for line in self.groups if line.information_kept is not None]
        lost, whole = (sum(number or 0.0 for number in side) for side in zip(*known, strict=True)) if known else (0, 0)
        return FrontierPoint(self.after, 1 - lost / whole if whole else None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes that should not be overlooked; they stand first."""
        return warnings_of(self.notes)

    def with_stage(self, name: str, measures: Measures) -> "Report":
        """Return the report with one more stage; a stage of that name is replaced."""
        return replace(self, stages={**self.stages, name: measures})

    def to_dict(self) -> dict[str, object]:
        """Return the report as data that strict JSON can hold.

        JSON has no infinities and no NaN: a float that is not finite becomes None. `from_dict` reads None back as
        None where a number may be absent (latency, nats, budget) and as NaN where it may not (metrics, slack, seconds).
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the report that `to_dict` wrote; unknown fields are ignored.

        Raises:
            MippError: a field is absent or has the wrong form.
        """
        try:
            found: Self = as_type(cls, data)
        except FormError as error:
            raise MippError(f"this is no report: {error}; expected what Report.to_dict() returns") from error
        return found

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report as one HTML file that needs no other file, no network and no script.

        The file appears at once or not at all; one that is there already is replaced.

        Raises:
            MippError: the folder of `path` does not exist, `path` is itself a folder, or it cannot be written.
        """
        from mipp.report import page

        _write(as_path(path), page.render(self))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.constrain import Constrain

        from mipp.report import text

        width = min(text.WIDTH, options.max_width)
        yield Constrain(text.render(self, width), width)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        from mipp.report import text

        return text.as_string(self)


def _plain(value: object) -> object:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, SupportsFloat):
        number = float(value)
        return number if math.isfinite(number) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def _write(path: Path, content: str) -> None:
    if not path.parent.is_dir():
        raise MippError(f"cannot write '{path}': the folder '{path.parent}' does not exist; create it first")
    if path.is_dir():
        raise MippError(f"cannot write '{path}': it is a folder; expected a file, such as '{path / 'report.html'}'")
    part = path.with_name(f".{path.name[:50]}.{os.getpid()}.part")
    try:
        part.write_text(content, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise MippError(
            f"cannot write '{path}': {error.strerror or error}; choose a place that you may write to"
        ) from error
    finally:
        part.unlink(missing_ok=True)
