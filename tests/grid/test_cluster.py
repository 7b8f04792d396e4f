"""A grid on Ray: every run once, in one folder, and again where a worker was lost."""

import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from digits_runs import make
from typer.testing import CliRunner

import mipp
from mipp import grid, zoo
from mipp.cli import app
from mipp.methods import L1, Random

BUDGET = mipp.Budget(nodes=6)


@dataclass(frozen=True)
class Fatal:
    """Kills its process in the middle of the first run."""

    mark: str

    def plan(self, task, budget):
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Random().plan(task, budget)


def test_the_run_of_a_lost_worker_is_done_again(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import this file
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: next to other tests they would starve
    train, test = zoo.load("digits", "train"), zoo.load("digits", "test")
    work = grid.Workload("small", make, train.subset(slice(64)), test.subset(slice(50)), samples=32)
    methods = {"l1": L1(), "random": Random(), "fatal": Fatal(str(tmp_path / "mark"))}
    todo = grid.runs(methods, [BUDGET], [0])
    rows = list(grid.on_ray(partial(grid.perform, work=work, folder=tmp_path / "runs"), todo, "local"))
    assert (tmp_path / "mark").exists()
    assert sorted(row["method"] for row in rows) == ["fatal", "l1", "random"]
    assert {row["method"]: row["accuracy"] for row in grid.collect(tmp_path / "runs")} == {
        row["method"]: row["accuracy"] for row in rows
    }
    here = {run.label: grid.perform(run, work, tmp_path / "again") for run in todo}
    assert {row["method"]: row["widths"] for row in rows} == {label: row["widths"] for label, row in here.items()}


def compare(folder, *arguments):
    return CliRunner().invoke(
        app,
        ["compare", "--model", "mipp.zoo:DigitsCNN", "--data", "digits", "--methods", "l1,random", "--budgets",
         "macs=0.5", "--max-samples", "32", "--no-compensate", "--json", "-q", "--out", str(folder), *arguments],
    )  # fmt: skip


def test_the_command_hands_its_runs_over(tmp_path, monkeypatch):
    def in_order(function, items, address):
        assert address == "10.0.0.1:6379"
        yield from map(function, items)

    monkeypatch.setattr("mipp.grid.on_ray", in_order)
    found = json.loads(compare(tmp_path, "--ray", "10.0.0.1:6379").stdout)
    assert {row["method"] for row in found["rows"]} == {"l1", "random"}


def test_results_in_folders_of_other_machines_are_missed(tmp_path, monkeypatch):
    monkeypatch.setattr("mipp.grid.on_ray", lambda function, items, address: iter([{}, {}]))
    answer = compare(tmp_path, "--ray", "10.0.0.1:6379")
    assert answer.exit_code == 2
    assert "2 of 2 runs left no result" in answer.stdout


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "nowhere.invalid:{}", "127.0.0.1:999999"])
def test_an_address_where_no_cluster_answers_is_told_at_once(address):
    pytest.importorskip("ray")
    with socket.socket() as held:  # bound, but nothing listens
        held.bind(("127.0.0.1", 0))
        with pytest.raises(mipp.MippError, match=r"No Ray cluster answers at .*ray start --head"):
            list(grid.on_ray(str, [1], address.format(held.getsockname()[1])))


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(mipp.MissingRequirementError, match=r"torch-mipp\[experiments\]"):
        list(grid.on_ray(str, [1], "local"))
