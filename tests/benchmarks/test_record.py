"""Every number in the README and the results page comes from a file that a program wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import markdown, record

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


@pytest.fixture
def on(monkeypatch, tmp_path):
    """Makes records in an empty folder, on a machine of some name."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)

    def made(cpu, **settings):
        monkeypatch.setattr(record, "machine", lambda: {"cpu": cpu, "threads": 1, "gpu": None, "versions": {"a": "1"}})
        return record.Record("some", **settings)

    return made


def written(found):
    data = json.loads(found.path.read_text())
    rows = [(row["x"], row["y"], row.get("machine", data["machine"])["cpu"]) for row in data["rows"]]
    return rows, data["machine"]["cpu"]


def test_rows_of_another_machine_stay_until_they_are_measured_anew(on):
    for x in (1, 2, 3):
        on("old").measure({"x": x}, lambda: {"y": 0})
    found = on("new")
    assert found.measure({"x": 2}, lambda: {"y": 5})["y"] == 5
    assert found.measure({"x": 2}, lambda: {"y": 6})["y"] == 5
    assert written(found) == ([(1, 0, "old"), (3, 0, "old"), (2, 5, "new")], "old")
    for x in (1, 3):
        found.measure({"x": x}, lambda: {"y": 7})
    assert written(found) == ([(2, 5, "new"), (1, 7, "new"), (3, 7, "new")], "new")
    assert all("machine" not in row for row in json.loads(found.path.read_text())["rows"])


def test_rows_under_other_settings_go(on):
    on("old", samples=1).measure({"x": 1}, lambda: {"y": 0})
    found = on("old", samples=2)
    found.measure({"x": 2}, lambda: {"y": 1})
    assert written(found) == ([(2, 1, "old")], "old")


def test_a_footnote_names_every_machine(on):
    for x in (1, 2):
        on("old").measure({"x": x}, lambda: {"y": 0})
    found = on("new")
    found.measure({"x": 3}, lambda: {"y": 0})
    told = markdown.footnote(json.loads(found.path.read_text()))
    assert "on old, 1 thread, 1 of 3 rows on new, 1 thread; a 1." in told


def test_peak_memory_is_bounded_by_the_limit_whatever_the_number_of_batches():
    """On top of the limit come one batch and the work on one layer, here less than 250 MB."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())["rows"]
    assert {row["batches"] for row in rows} == {4, 40, 400}
    for row in rows:
        limit = {"100MB": 100, "default": 4000}[row["memory limit"]]
        assert row["peak"] - row["peak before"] <= limit + 250
