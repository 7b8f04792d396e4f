"""A report as one HTML page that needs no other file, no network and no script."""

import functools
import math
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from mipp.report import figures, summary
from mipp.report.curve import curve_of

if TYPE_CHECKING:
    from mipp.report.data import GroupLine, Report

_FLOORS = (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25, 0.0)
_MANY_BANDS = 12
_WIDE, _WIDEST = 140, 10  # letters that fit under the picture, and under one group of it at most
_LETTERS = 40


@dataclass(frozen=True)
class Band:
    """Neighbouring groups whose names begin alike, for the labels under the picture."""

    label: str
    size: int


@dataclass(frozen=True)
class Picture:
    """The positions of the marks of the picture, as fractions of its height.

    Args:
        ticks: widths that get a grid line.
        top: the width at the upper edge.
        floor: the kept fraction of information at the lower edge of its panel; None when nothing was measured.
        bands: labels under the groups, shortened to their room.
        shades: per group the share of its information that a tenth, two tenths, ... of its nodes carry, highest first;
            empty when it was not measured.
        letters: length of the longest name, within limits.
        digits: length of the longest `kept / size`.
    """

    ticks: tuple[int, ...]
    top: int
    floor: float | None
    bands: tuple[Band, ...]
    shades: tuple[tuple[float, ...], ...]
    letters: int
    digits: int


def render(report: "Report") -> str:
    """Return the page; every name in it is escaped."""
    rows = summary.rows(report)
    kinds = summary.kinds(report.groups) if len(report.groups) > summary.MANY else ()
    template = _environment().get_template("page.html.jinja")
    return template.render(
        report=report,
        rows=rows,
        limits=_limits(report, rows),
        budget=summary.budget(report),
        picture=_picture(report.groups, kinds),
        kinds=kinds,
        curve=curve_of(report),
        frozen=summary.group_by_reason(report.frozen),
        total_seconds=sum(report.seconds.values()),
        models=("dense", "pruned", *report.stages),
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mipp.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": figures.count,
        "figure": figures.figure,
        "percent": figures.percent,
        "times": figures.times,
    }
    environment.filters |= {"exact": "{:,}".format, "plural": figures.plural, "printable": figures.printable}
    environment.filters |= {"clip": _clip, "darken": lambda share: round(_clip(share) ** 2, 3)}
    return environment


def _finalize(value: object) -> object:
    return figures.printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _clip(fraction: float | None) -> float:
    return 0.0 if fraction is None else round(min(max(fraction, 0.0), 1.0), 4)


def _limits(report: "Report", rows: tuple[summary.Row, ...]) -> dict[str, float]:
    """Return the limit of each constraint as a fraction of dense: what was reached plus the slack."""
    reached = {row.key: row.ratio for row in rows if row.ratio is not None}
    known = {name: slack for name, slack in report.slack.items() if name in reached and math.isfinite(slack)}
    return {name: reached[name] + slack for name, slack in known.items()}


def _picture(groups: tuple["GroupLine", ...], kinds: tuple["GroupLine", ...]) -> Picture:
    top = max((line.size for line in groups), default=1)
    kept = [line.information_kept for line in groups]
    lowest = min((fraction for fraction in kept if fraction is not None), default=None)
    floor = None if lowest is None else next((floor for floor in _FLOORS if floor < lowest), 0.0)
    return Picture(
        ticks=tuple(sorted({math.ceil(top / 2), top})),
        top=max(top, 1),
        floor=floor,
        bands=_bands([line.name for line in groups]),
        shades=tuple(line.sensitivity[:0:-1] for line in groups) if any(line.sensitivity for line in groups) else (),
        letters=min(max((len(line.name) for line in (*groups, *kinds)), default=0), _LETTERS),
        digits=max((len(f"{line.kept:,} / {line.size:,}") for line in (*groups, *kinds)), default=0),
    )


def _bands(names: list[str]) -> tuple[Band, ...]:
    """Label runs of neighbours by the shortest common beginning of their module paths that tells runs apart.

    Where that makes too many labels, neighbouring runs share that of the first.
    """
    paths = [name.split(".") for name in names]
    labels_at = ([".".join(path[:depth]) for path in paths] for depth in range(1, max(map(len, paths), default=0) + 1))
    known = ([Band(label, len(list(run))) for label, run in groupby(labels)] for labels in labels_at)
    runs = next((bands for bands in known if len(bands) > 1), [])
    share = math.ceil(len(runs) / _MANY_BANDS)
    joined = [runs[start : start + share] for start in range(0, len(runs), share or 1)]
    room = _WIDE / max(len(names), math.ceil(_WIDE / _WIDEST))
    labels = _tell_apart([run[0].label for run in joined])
    sizes = [sum(band.size for band in run) for run in joined]
    fitted = [figures.shorten(label, max(int(size * room) - 1, 3)) for label, size in zip(labels, sizes, strict=True)]
    return tuple(map(Band, fitted, sizes))


def _tell_apart(names: list[str]) -> list[str]:
    """Module paths without what all of them begin with, but for its last part: `layers.0` of `model.layers.0`."""
    paths = [name.split(".") for name in names]
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    return [".".join(path[max(shared - 1, 0) :]) for path in paths]
