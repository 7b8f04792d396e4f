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
_PARTIAL = ("--minutes", "--shard", "--network", "--choice", "--method", "--part", "--model")
"""Options, each with a value, that leave rows to other calls: a file holds what all of them measured."""


class Record:
    """A result file that grows row by row; rows that are there already are not measured again.

    Several processes may write to one file: each keeps what the others wrote.

    Args:
        name: Stem of the file in benchmarks/results.
        settings: What all rows have in common; a file with other settings is started anew.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.path = RESULTS / f"{name}.json"
        self.head = {
            "program": _program(name),
            "command": _command(name),
            "machine": machine(),
            "settings": settings,
        }
        self.rows: list[Row] = self._written()

    def measure(self, key: Row, function: Callable[[], Row]) -> Row:
        """Returns the row with this key, measuring and saving it if it is new."""
        for row in self.rows:
            if all(row.get(k) == v for k, v in key.items()):
                return row
        row = {**key, **function()}
        self.path.parent.mkdir(exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            self.rows = [*self._written(), row]
            self.save()
        print(json.dumps(row), flush=True)
        return row

    def save(self) -> None:
        write(self.path, self.head, self.rows)

    def _written(self) -> list[Row]:
        """Rows of the file that belong to the same settings and machine."""
        if not self.path.exists():
            return []
        earlier = json.loads(self.path.read_text())
        same = earlier["settings"] == self.head["settings"] and earlier["machine"] == self.head["machine"]
        return list(earlier["rows"]) if same else []


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
        elif not word.startswith(tuple(f"{option}=" for option in _PARTIAL)):
            words.append("FOLDER" if "/" in word or Path(word).exists() else word)
    return " ".join(["python -m", _program(name), *words])
