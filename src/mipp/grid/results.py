"""Results of runs as plain data, and what is counted in them."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mipp.errors import MippError, clip
from mipp.plan.registry import CONSTRAINTS
from mipp.runtime.typed import FormError, as_type, read_json

COSTS = tuple(name for name, constraint in CONSTRAINTS.items() if not constraint.is_estimated)
"""Constraints that are counted exactly, and told as the fraction kept."""
Row = dict[str, Any]
"""The result of one run."""


@dataclass(frozen=True)
class _Result:
    """The fields that all results of runs have."""

    method: str
    record: str
    budget: dict[str, object]
    seed: int
    workload: dict[str, object]


@dataclass(frozen=True)
class _Refused(_Result):
    """The result of a run that ended in an error."""

    error: str


@dataclass(frozen=True)
class _Seconds:
    selection: float
    whole: float
    run: float
    training: float


@dataclass(frozen=True)
class _Finished(_Result):
    """The fields of another result that tables and pictures are made of; accuracies by stage, in percent."""

    accuracy: dict[str, float]
    keep: dict[str, float]
    collapsed: tuple[str, ...]
    seconds: _Seconds


def read_row(path: Path) -> Row:
    """The result of a run in a file.

    Raises:
        OSError: The file cannot be read.
        MippError: It is damaged.
    """
    try:
        row = read_json(path)
        if "error" in row:
            return {**row, **asdict(as_type(_Refused, row))}
        found = asdict(as_type(_Finished, row))
        found |= as_type(dict[str, float | None], {name: row.get(name) for name in COSTS})
        numbers = [*found["accuracy"].values(), *found["keep"].values(), *(found[name] or 0 for name in COSTS)]
        if not all(map(math.isfinite, numbers)):
            raise FormError("it has a number that is not finite")
    except (FormError, TypeError) as error:
        raise MippError(
            f"{clip(str(path))} is no result of a run ({error}); remove it, and the run is done again."
        ) from error
    return {**row, **found}
