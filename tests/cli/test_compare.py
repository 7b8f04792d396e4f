"""`mipp compare`: one table and plots, and runs that are done are skipped."""

import json

import pytest
from filelock import Timeout
from typer.testing import CliRunner

from mipp import grid
from mipp.cli import app

pytestmark = pytest.mark.usefixtures("quick")


def compare(*arguments: str):
    return CliRunner().invoke(app, ["compare", "--model", "mipp.zoo:DigitsCNN", "--data", "digits", *arguments])


def test_the_command_writes_a_table_and_plots_and_skips_what_is_done(tmp_path, monkeypatch):
    options = ("--methods", "l1,random@l1", "--budgets", "nodes=0.1:min_keep=0", "--max-samples", "32", "--json", "-q",
               "--no-compensate", "--out", str(tmp_path / "out"))  # fmt: skip
    found = json.loads(compare(*options).stdout)
    assert {row["method"] for row in found["rows"]} == {"l1", "random@l1"}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    pictures = {f"accuracy-{cost}.svg" for cost in ("macs", "params", "nodes", "activations")} | {
        "keep-ratios.svg",
        "collapse.svg",
    }
    assert names == pictures | {"table.md", "runs"}
    monkeypatch.setattr("mipp.prune", None)
    again = compare(*(option for option in options if option != "-q"))
    assert json.loads(again.stdout)["rows"] == found["rows"]
    assert (found["resumed"], json.loads(again.stdout)["resumed"]) == (False, True)
    assert f"Goes on: 2 of 2 trainings and runs are in {tmp_path / 'out'} already." in again.stderr.replace("\n", "")
    assert "No --weights and no --before-epochs" in again.stderr


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "out" / "runs").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "odd.json").write_text("{")
    answer = compare("--methods", "l1", "--budgets", "nodes=0.5", "-q", "--out", str(tmp_path / "out"))
    assert answer.exit_code == 2
    assert "is no result of a run" in " ".join(answer.stderr.split())


def test_a_run_that_another_process_is_at_comes_last(tmp_path, monkeypatch):
    read, perform, really = [], grid.perform, grid.once

    def note(run, work, folder):
        read.append(run.label)
        return perform(run, work, folder)

    def taken(job, *, wait=True):
        monkeypatch.setattr(grid, "once", really)
        raise Timeout(str(job.path))

    monkeypatch.setattr(grid, "once", taken)
    monkeypatch.setattr(grid, "perform", note)
    compare("--methods", "l1,l2", "--budgets", "nodes=0.5", "--max-samples", "32", "-q", "--no-compensate",
            "--out", str(tmp_path / "out"))  # fmt: skip
    assert read == ["l2", "l1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--methods", "l1@mipp", "--budgets", "macs=0.5"), "random, reinit and scratch do"),
        (("--methods", "l3", "--budgets", "macs=0.5"), "did you mean"),
        (("--methods", "l1", "--budgets", "mac=0.5"), "did you mean 'macs'"),
        (("--methods", "l1", "--budgets", "macs=0.5", "--seeds", "a"), "whole numbers"),
        (("--methods", "l1,", "--budgets", "macs=0.5"), "without gaps"),
    ],
)
def test_wrong_lists_are_refused(arguments, expected, tmp_path):
    answer = compare(*arguments, "--out", str(tmp_path / "out"))
    assert answer.exit_code == 2
    assert expected in " ".join(answer.stderr.split())
