"""Result files: rows that a program measured, with the hardware, versions, seed and command behind them."""

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mipp.measuring import versions

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


class Record:
    """A result file that grows row by row; rows that are there already are not measured again.

    Args:
        name: Stem of the file in benchmarks/results.
        settings: What all rows have in common; a file with other settings is started anew.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.path = RESULTS / f"{name}.json"
        self.head = {
            "program": f"benchmarks.{name}",
            "command": _command(name),
            "machine": machine(),
            "settings": settings,
        }
        self.rows: list[Row] = []
        if self.path.exists():
            earlier = json.loads(self.path.read_text())
            if earlier["settings"] == settings and earlier["machine"] == self.head["machine"]:
                self.rows = earlier["rows"]

    def measure(self, key: Row, function: Callable[[], Row]) -> Row:
        """Returns the row with this key, measuring and saving it if it is new."""
        for row in self.rows:
            if all(row.get(k) == v for k, v in key.items()):
                return row
        row = {**key, **function()}
        self.rows.append(row)
        self.save()
        print(json.dumps(row), flush=True)
        return row

    def save(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({**self.head, "rows": self.rows}, indent=1) + "\n")
        part.replace(self.path)


def machine() -> Row:
    """Processor, cores, accelerator and versions; no host names, no paths."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "threads": torch.get_num_threads(), "gpu": gpu, "versions": versions()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _command(name: str) -> str:
    words = ["FOLDER" if "/" in word or Path(word).exists() else word for word in sys.argv[1:]]
    return " ".join(["python -m", f"benchmarks.{name}", *words])
