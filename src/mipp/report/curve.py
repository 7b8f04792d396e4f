"""The curve of quality against size that `frontier` measured: what both renderings show of it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mipp.plan.registry import CONSTRAINTS
from mipp.report import figures

if TYPE_CHECKING:
    from mipp.report.data import FrontierPoint, Report

_INFORMATION = "information kept"


@dataclass(frozen=True)
class CurvePoint:
    """One network of a curve.

    Args:
        size: its size as a share of the dense one's.
        quality: the metric, or the share of information kept.
        cells: both as text.
        chosen: True for the network that the report is about.
        dense: True for the network before pruning.
    """

    size: float
    quality: float
    cells: tuple[str, str]
    chosen: bool
    dense: bool = False


@dataclass(frozen=True)
class Curve:
    """Networks from the smallest to the dense one.

    Args:
        size: what is counted.
        quality: name of the metric.
        points: at least two, by size.
    """

    size: str
    quality: str
    points: tuple[CurvePoint, ...]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest quality, which differ."""
        values = [point.quality for point in self.points]
        low, high = min(values), max(values)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def height(self, quality: float) -> float:
        """The place between the bounds, from 0 to 1."""
        low, high = self.bounds
        return (quality - low) / (high - low)


def curve_of(report: "Report") -> Curve | None:
    """The first metric, else the information kept, against the first constraint of the budget; None without a curve."""
    if not report.frontier:
        return None
    constraint = next(
        (CONSTRAINTS[name] for name, value in report.budget.items() if value and name in CONSTRAINTS), None
    )
    constraint = constraint or CONSTRAINTS["macs"]
    metric = next(iter(report.before.metrics), None)
    dense = getattr(report.before, constraint.name)

    own = report.point
    whole = replace(own, measures=report.before, information_kept=1.0)

    def place(point: "FrontierPoint") -> CurvePoint | None:
        size = figures.ratio(getattr(point.measures, constraint.name), dense)
        quality = point.information_kept if metric is None else point.measures.metrics.get(metric)
        if size is None or quality is None or quality != quality:  # a metric may be no number
            return None
        write = figures.percent if metric is None else figures.figure
        return CurvePoint(size, quality, (figures.percent(size), write(quality)), point == own, point is whole)

    found = [place(point) for point in (*report.frontier, whole)]
    points = sorted((point for point in found if point is not None), key=lambda point: point.size)
    return Curve(constraint.label, metric or _INFORMATION, tuple(points)) if len(points) > 1 else None
