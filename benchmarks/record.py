"""Result files: rows that a program measured, with the hardware, versions, seed and command behind them."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from mipp.report.measuring import machine

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
_PARTIAL = ("--minutes", "--shard", "--network", "--choice", "--method", "--part", "--model", "--noise", "--draw")
"""Options, each with a value, that leave rows to other calls: a file holds what all of them measured."""
_WITHOUT = "--no-recovery"
"""An option that leaves parts of rows to other calls."""


class Record:
    """A result file that grows row by row; rows that were measured on this machine are not measured again.

    A row of another machine is replaced when it is measured here, and stays until then. The head names the machine of
    most rows; each of the others names its own. Several processes may write to one file: each keeps what the others
    wrote.

    Args:
        name: Stem of the file in benchmarks/results.
        settings: What all rows have in common; a file with other settings is started anew.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.path = RESULTS / f"{name}.json"
        self.head = {
            "program": _program(name),
            "command": _command(name),
            "machine": {},
            "settings": settings,
        }
        self.rows: list[Row] = self._written()

    def measure(self, key: Row, function: Callable[[], Row]) -> Row:
        """Returns the row with this key, measuring and saving it if it is new here."""
        if (found := self.find(key)) is not None:
            return found
        row = {**key, **function(), "machine": machine()}
        self.path.parent.mkdir(exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            self.rows = [*(other for other in self._written() if not _has(other, key)), row]
            self.save()
        print(json.dumps({name: value for name, value in row.items() if name != "machine"}), flush=True)
        return row

    def find(self, key: Row) -> Row | None:
        """The row with this key that was measured on this machine."""
        here = machine()
        return next((row for row in self.rows if _has(row, key) and row["machine"] == here), None)

    def save(self) -> None:
        """Writes the file, with the machine of most rows in its head."""
        machines = [row["machine"] for row in self.rows]
        self.head["machine"] = max(machines, key=machines.count, default=machine())
        rows = [{k: v for k, v in row.items() if k != "machine" or v != self.head["machine"]} for row in self.rows]
        write(self.path, self.head, rows)

    def _written(self) -> list[Row]:
        """Rows of the file that belong to the same settings, each with its machine."""
        if not self.path.exists():
            return []
        earlier = json.loads(self.path.read_text())
        if earlier["settings"] != self.head["settings"]:
            return []
        return [{**row, "machine": row.get("machine", earlier["machine"])} for row in earlier["rows"]]


def _has(row: Row, key: Row) -> bool:
    return all(row.get(name) == value for name, value in key.items())


def write(path: Path, head: Row, rows: Sequence[Row]) -> None:
    """Writes a result file, one row per line so that changes can be read; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    lines = ",\n".join(map(json.dumps, rows))
    part.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{lines}\n]\n}}\n', encoding="utf-8")
    part.replace(path)


def _program(name: str) -> str:
    """The module that was started, where one was."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return (
        spec.name
        if spec is not None and spec.name.startswith(("benchmarks.", "experiments."))
        else f"benchmarks.{name}"
    )


def _command(name: str) -> str:
    """The command that measures all rows, without the names of folders."""
    given = iter(sys.argv[1:])
    words = []
    for word in given:
        if word in _PARTIAL:
            next(given)
        elif word != _WITHOUT and not word.startswith(tuple(f"{option}=" for option in _PARTIAL)):
            words.append("FOLDER" if "/" in word or Path(word).exists() else word)
    return " ".join(["python -m", _program(name), *words])
