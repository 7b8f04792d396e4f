"""Result files: what the runs of an experiment found, with the hardware, versions, seeds and command behind them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import write
from experiments.mipp_2024.figures.base import Piece, Row

RESULTS = Path(__file__).parent / "results"
PLOTS = Path(__file__).parent / "plots"


@dataclass(frozen=True)
class Found:
    """A result file.

    Attributes:
        head: Command, machines, and settings of each panel.
        rows: One for each run; "machine" is the number of the one it ran on.
    """

    head: Row
    rows: list[Row]

    @property
    def minutes(self) -> float:
        """Time of all runs in one process, the training of the dense networks not counted."""
        return sum(row["seconds"]["run"] for row in self.rows if "seconds" in row) / 60


def save(experiment: str, command: str, pieces: Sequence[Piece], folder: Path = RESULTS) -> Path:
    """Writes what there is of an experiment; an earlier file's other panels stay, and other seeds of these panels.

    Panels of which there is nothing new stay as they are, whatever their settings, and a file stays under the command
    that it was written by when all rows are the same.
    """
    earlier = load(experiment, folder)
    settings: dict[str, Any] = dict(earlier.head["settings"]) if earlier else {}
    new = {piece.name: piece.rows() for piece in pieces}
    renewed = {piece.name: piece for piece in pieces if new[piece.name]}
    rows = [row for row in (earlier.rows if earlier else []) if _stays(row, renewed.get(row["panel"]), settings)]
    machines: list[Row] = list(earlier.head["machines"]) if earlier and rows else []
    for piece in pieces:
        found = new[piece.name]
        settings |= {piece.name: piece.settings} if found else {}
        for row in found:
            used = _used(row)
            machines += [] if used in machines else [used]
            rows.append({**{k: v for k, v in row.items() if k != "workload"}, "machine": machines.index(used)})
    if earlier and rows == earlier.rows:
        command = earlier.head["command"]
    head = {"program": "experiments.mipp_2024", "command": command, "machines": machines, "settings": settings}
    path = folder / f"{experiment}.json"
    write(path, head, rows)
    return path


def restore(experiment: str, pieces: Sequence[Piece], folder: Path = RESULTS) -> None:
    """Puts the rows of a result file back where runs are looked for, so that they are not done again."""
    found = load(experiment, folder)
    if found is None:
        return
    machines, settings = found.head["machines"], found.head["settings"]
    for piece in pieces:
        if _same(piece, settings):
            own = [row for row in found.rows if row["panel"] == piece.name]
            piece.restore([{**row, "machine": machines[row["machine"]]} for row in own])


def _stays(row: Row, piece: Piece | None, settings: Mapping[str, Row]) -> bool:
    """True if a row of an earlier file is none of those that a piece writes anew."""
    return piece is None or (_same(piece, settings) and row["seed"] not in piece.seeds)


def _same(piece: Piece, settings: Mapping[str, Row]) -> bool:
    """True if rows under these settings of each panel are those of the piece."""
    return settings.get(piece.name) == json.loads(json.dumps(piece.settings))


def _used(row: Row) -> Row:
    """The machine that a row was measured on: a GPU that was idle is left out."""
    idle = not str(row.get("device", "cpu")).startswith("cuda")
    return {**row["machine"], "gpu": None if idle else row["machine"]["gpu"]}


def load(experiment: str, folder: Path = RESULTS) -> Found | None:
    """The result file of an experiment; None if there is none."""
    path = folder / f"{experiment}.json"
    if not path.exists():
        return None
    head = json.loads(path.read_text(encoding="utf-8"))
    return Found({k: v for k, v in head.items() if k != "rows"}, head["rows"])
