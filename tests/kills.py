"""Kills runs at random moments and starts them again; `make kills` writes how it went to a file.

Runs of all kinds in `killed.py`: distillation of the whole network and region by region, the paper's perceptrons, a
method that trains, and a table of `mipp compare`.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from mipp.report.measuring import machine

SCENARIOS = ("network", "regions", "perceptrons", "training", "compare")
RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "kills.json"
OUTCOMES = ("killed", "resumed", "the same", "another result")


class Runs:
    """A process that forks one child for every run of a scenario."""

    def __init__(self, scenario: str = "network") -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, Path(__file__).with_name("killed.py"), scenario], **pipes)

    def __call__(self, folder: Path, kill_at: int | None = None, later: float = 0.0) -> tuple[dict | None, float]:
        """Runs once, killed when the journal has so many lines, or a little later.

        Returns:
            Its answer, None if it was killed before, and its seconds.
        """
        result = folder / "result.json"
        result.unlink(missing_ok=True)
        print(folder / "checkpoint", result, file=self.process.stdin, flush=True)
        word, pid = self.process.stdout.readline().split()
        assert word == "READY"
        started = time.perf_counter()
        if kill_at is not None:
            while lines(folder) < kill_at and not result.exists():
                time.sleep(1e-3)
            time.sleep(later)
            with suppress(ProcessLookupError):  # it has ended
                os.kill(int(pid), signal.SIGKILL)
        word, status = self.process.stdout.readline().split()
        assert word == "DONE"
        assert int(status) in ((0,) if kill_at is None else (0, signal.SIGKILL))
        seconds = time.perf_counter() - started
        return json.loads(result.read_text()) if result.exists() else None, seconds

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


def lines(folder: Path) -> int:
    """Lines of the journal of a run, or finished parts of a table; 0 before there is one."""
    journal = folder / "checkpoint" / "journal.jsonl"
    if journal.exists():
        return journal.read_text().count("\n")
    return sum(path.suffix in (".json", ".safetensors") for path in (folder / "checkpoint" / "runs").glob("*"))


def kill_at_random(runs: Runs, folder: Path, kills: int, generator: random.Random) -> Counter[str]:
    """Kills so many runs, each at a moment between its beginning and its end, and starts it again.

    Returns:
        Counts: "killed" (others had ended), "resumed", and by outcome "the same" or "another result".
    """
    (folder / "whole").mkdir()
    expected, seconds = runs(folder / "whole")
    expected.pop("resumed")
    found: Counter[str] = Counter()
    for kill in range(kills):
        own = folder / str(kill)
        own.mkdir()
        first, _ = runs(own, 0, generator.random() * seconds)
        found["killed"] += first is None
        begun = lines(own)
        answer, _ = runs(own)
        resumed = answer.pop("resumed")
        found["resumed"] += resumed
        found["the same" if answer == expected and resumed == (begun > 0) else "another result"] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many in all")
    parser.add_argument("--out", type=Path, default=RESULT, help="a JSON file")
    options = parser.parse_args()
    generator, rows = random.Random(0), []
    for number, name in enumerate(SCENARIOS):
        runs = Runs(name)
        count = options.kills // len(SCENARIOS) + (number < options.kills % len(SCENARIOS))
        with tempfile.TemporaryDirectory() as folder:
            found = kill_at_random(runs, Path(folder), count, generator)
        runs.close()
        rows.append({"scenario": name, "runs": count, **{outcome: found[outcome] for outcome in OUTCOMES}})
        write(options.out, options.kills, rows)
    sys.exit(any(row["another result"] for row in rows))


def write(path: Path, kills: int, rows: list[dict]) -> None:
    """Writes a result file of the form that those of the benchmarks have."""
    head = {
        "program": "tests.kills",
        "command": f"python -m tests.kills --kills {kills}",
        "machine": machine(),
        "settings": {"kills": kills, "seed": 0},
    }
    path.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
