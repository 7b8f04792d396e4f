"""Every number in the README and the results page comes from a file that a program wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import record

ROOT = Path(__file__).parents[2]


def test_pages_show_what_the_result_files_hold():
    command = [sys.executable, "-m", "benchmarks.tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_result_files_say_where_they_come_from():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        data = json.loads(path.read_text())
        assert {"program", "command", "machine", "settings", "rows"} <= data.keys()
        assert {"cpu", "threads", "versions"} <= data["machine"].keys()
        assert "/" not in data["command"]


def test_result_files_hold_numbers_that_any_reader_of_json_takes():
    for path in [*ROOT.glob("benchmarks/results/*.json"), *ROOT.glob("experiments/*/results/*.json")]:
        json.loads(path.read_text(), parse_constant=lambda constant, of=path: pytest.fail(f"{constant} in {of.name}"))


def test_a_recorded_command_is_the_one_that_measures_all_rows(monkeypatch):
    words = [
        "run",
        "resnet",
        "--weights",
        "/data/weights",
        "--minutes",
        "5",
        "--method=l1",
        "--shard",
        "0/2",
        "--draws",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert record._command("methods") == "python -m benchmarks.methods resnet --weights FOLDER --draws 3"


def test_peak_memory_is_bounded_by_the_limit_whatever_the_number_of_batches():
    """On top of the limit come one batch and the work on one layer, here less than 250 MB."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())["rows"]
    assert {row["batches"] for row in rows} == {4, 40, 400}
    for row in rows:
        limit = {"100MB": 100, "default": 4000}[row["memory limit"]]
        assert row["peak"] - row["peak before"] <= limit + 250
