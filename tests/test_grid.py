"""The grid runner: every combination once, named by its options, finished runs skipped, failures told."""

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn
from typer.testing import CliRunner

import mipp
from mipp import grid, zoo
from mipp.cli import app
from mipp.cli.arguments import budgets
from mipp.methods import L1, Random, Reinitialised, ThiNet

pytestmark = pytest.mark.usefixtures("quick")
RECIPE = grid.Recipe(epochs=1, learning_rate=0.02, batch_size=32)


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def make(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Small()


@pytest.fixture(scope="module")
def work() -> grid.Workload:
    train, test = zoo.load("digits", "train"), zoo.load("digits", "test")
    return grid.Workload(
        "small", make, train.subset(slice(256)), test.subset(slice(100)), before=RECIPE, after=RECIPE, samples=64
    )


def test_runs_are_every_combination_seed_by_seed():
    todo = grid.runs({"l1": L1(), "random": Random()}, [mipp.Budget(macs=0.5), mipp.Budget(macs=0.2)], range(2))
    assert len(todo) == 8
    assert [run.seed for run in todo] == [0] * 4 + [1] * 4
    assert len({(run.label, run.budget.macs, run.seed) for run in todo}) == 8


def test_the_name_of_a_run_changes_with_each_of_its_options_and_with_nothing_else(work):
    run = grid.Run("l1", L1(), mipp.Budget(macs=0.5), 0)
    others = [
        dataclasses.replace(run, method=L1(scope="global")),
        dataclasses.replace(run, budget=mipp.Budget(macs=0.4)),
        dataclasses.replace(run, seed=1),
    ]
    works = [
        dataclasses.replace(work, **{name: value})
        for name, value in {"samples": 65, "after": grid.Recipe(), "compensate": False, "name": "other"}.items()
    ]
    names = [run.name(work), *(other.name(work) for other in others), *(run.name(other) for other in works)]
    assert len(set(names)) == len(names)
    assert dataclasses.replace(run, label="magnitude").name(dataclasses.replace(work)) == run.name(work)


def test_a_run_measures_every_stage_and_is_done_once(work, tmp_path, monkeypatch):
    run = grid.Run("thinet", ThiNet(), mipp.Budget(nodes=6), 0)
    row = grid.perform(run, work, tmp_path)
    assert set(row["accuracy"]) == {"dense", "pruned", "pruned, trained", "refitted", "refitted, trained"}
    assert row["accuracy"]["refitted"] >= row["accuracy"]["pruned"] - 5
    assert row["nodes"] == 0.5
    assert row["widths"] == {"1": 6}
    monkeypatch.setattr("mipp.grid.run.prune", None)  # whatever prunes again, fails
    again = grid.perform(run, work, tmp_path)
    assert {k: again[k] for k in row} == row
    assert [r["accuracy"] for r in grid.collect(tmp_path)] == [row["accuracy"]]


def test_results_put_back_from_elsewhere_are_not_done_again(work, tmp_path, monkeypatch):
    runs = grid.runs({"random": Random()}, [mipp.Budget(nodes=0.5)], range(2))
    rows = [grid.perform(run, work, tmp_path / "first") for run in runs]
    grid.restore(rows[:1], tmp_path / "second")
    assert grid.read_results(runs, work, tmp_path / "second") == rows[:1]
    monkeypatch.setattr(grid.run, "prune", None)
    assert grid.perform(runs[0], work, tmp_path / "second") == rows[0]
    with pytest.raises(TypeError):
        grid.perform(runs[1], work, tmp_path / "second")


def test_the_dense_network_is_trained_once_per_seed(work, tmp_path, monkeypatch):
    first = work.dense(0, tmp_path)
    monkeypatch.setattr("mipp.grid.workload.fit", None)
    again = work.dense(0, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_methods_that_change_weights_are_not_refitted(work, tmp_path):
    row = grid.perform(grid.Run("reinit", Reinitialised(), mipp.Budget(nodes=6), 0), work, tmp_path)
    assert set(row["accuracy"]) == {"dense", "pruned", "pruned, trained"}


def test_a_method_gets_as_many_calibration_images_as_the_workload_says(work, tmp_path):
    counts: list[int] = []

    class Counting(L1):
        def plan(self, task, budget):
            counts.append(sum(batch.samples for batch in task.batches))
            return super().plan(task, budget)

    many = dataclasses.replace(work, train=zoo.load("digits", "train"), samples=1200, before=grid.Recipe(), after={})
    grid.perform(grid.Run("counting", Counting(), mipp.Budget(nodes=6), 0), many, tmp_path)
    assert counts == [1200]


def test_a_refusal_is_a_result(work, tmp_path):
    row = grid.perform(grid.Run("l1", L1(), mipp.Budget(macs=0.001), 0), work, tmp_path)
    assert row["error"].startswith("InfeasibleBudgetError")
    (summary,) = grid.summarise(grid.collect(tmp_path))
    assert summary.seeds == 0
    assert "InfeasibleBudgetError" in grid.markdown([summary])
    assert grid.draw(grid.collect(tmp_path), tmp_path) == []


def test_results_of_different_workloads_are_not_mixed(work, tmp_path):
    run = grid.Run("l1", L1(), mipp.Budget(macs=0.5), 0)
    plain = dataclasses.replace(work, before=grid.Recipe(), after=grid.Recipe(), compensate=False)
    for samples in (32, 64):
        grid.perform(run, dataclasses.replace(plain, samples=samples), tmp_path)
    with pytest.raises(mipp.MippError, match="2 different workloads"):
        grid.collect(tmp_path)


def test_summaries_are_means_over_the_seeds():
    def row(seed, accuracy):
        return {
            "method": "l1", "budget": {"macs": 0.5}, "seed": seed, "accuracy": {"pruned": accuracy}, "macs": 0.4,
            "params": 0.5, "nodes": 0.6, "collapsed": ["a"] * seed, "seconds": {"selection": 1.0 + seed},
        }  # fmt: skip

    (summary,) = grid.summarise([row(0, 80.0), row(1, 84.0)])
    assert summary.accuracy["pruned"] == pytest.approx((82.0, 8**0.5))
    assert (summary.collapsed, summary.seeds, summary.seconds) == (1, 2, 1.5)
    assert "| l1 | macs=0.5 | 82.00 ± 2.83 | 40.0 % | 50.0 % | 60.0 % | 1 of 2 | 1.50 |" in grid.markdown([summary])


def compare(*arguments: str):
    return CliRunner().invoke(app, ["compare", "--model", "mipp.zoo:DigitsCNN", "--data", "digits", *arguments])


def test_the_command_writes_a_table_and_plots_and_skips_what_is_done(tmp_path, monkeypatch):
    options = ("--methods", "l1,random@l1", "--budgets", "nodes=0.1:min_keep=0", "--max-samples", "32", "--json", "-q",
               "--no-compensate", "--out", str(tmp_path / "out"))  # fmt: skip
    found = json.loads(compare(*options).stdout)
    assert {row["method"] for row in found["rows"]} == {"l1", "random@l1"}
    names = {p.name for p in (tmp_path / "out").iterdir()}
    pictures = {f"accuracy-{cost}.svg" for cost in ("macs", "params", "nodes")} | {"keep-ratios.svg", "collapse.svg"}
    assert names == pictures | {"table.md", "runs"}
    monkeypatch.setattr("mipp.grid.run.prune", None)
    again = compare(*(option for option in options if option != "-q"))
    assert json.loads(again.stdout)["rows"] == found["rows"]
    assert "No --weights and no --before-epochs" in again.stderr


def test_budgets_are_read_as_the_options_of_the_same_names():
    found = budgets("latency_ms=12.5:min_keep=0,macs=0.5")
    assert found == [mipp.Budget(latency_ms=12.5, min_keep=0), mipp.Budget(macs=0.5)]


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


def sweep_in_another_process(work: grid.Workload, todo: list[grid.Run], folder: Path) -> None:
    done: list[str] = []
    jobs = [*grid.trainings(todo, work, folder), *(grid.job(run, work, folder) for run in todo)]
    grid.sweep(jobs, done=lambda one: done.append(one.path.name))
    (folder / f"{os.getpid()}.done").write_text("\n".join(done))


def test_processes_that_are_started_on_the_same_runs_share_them(work, tmp_path):
    todo = grid.runs({"l1": L1(), "thinet": ThiNet()}, [mipp.Budget(nodes=6), mipp.Budget(nodes=4)], range(2))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=sweep_in_another_process, args=(work, todo, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    done = [name for path in tmp_path.glob("*.done") for name in path.read_text().split()]
    assert len(done) == len(set(done)) == 2 + len(todo)
    assert len(grid.read_results(todo, work, tmp_path)) == len(todo)
    renamed = dataclasses.replace(todo[0], label="magnitude")
    assert grid.read_results([renamed], work, tmp_path)[0]["method"] == "magnitude"
    assert grid.remaining(todo, work, tmp_path) == 0
    assert grid.remaining(todo + grid.runs({"l1": L1()}, [mipp.Budget(nodes=5)], [0]), work, tmp_path) > 0
    assert not list(tmp_path.glob("*.part"))


def test_a_sweep_passes_over_what_another_process_is_doing_and_stops_when_its_time_is_over(tmp_path):
    jobs = [grid.Job(name, tmp_path / name, lambda path: path.write_text("")) for name in "abc"]
    seen: list[str] = []
    with FileLock(f"{jobs[0].path}.lock"):
        grid.sweep(jobs, on_time=lambda: not seen, done=lambda one: seen.append(one.name))
        assert grid.at_work(jobs)
    assert not grid.at_work(jobs)
    assert seen == ["b"]
    grid.sweep(jobs, done=lambda one: seen.append(one.name))
    assert seen == ["b", "a", "c"]


def test_what_another_process_finished_at_the_last_moment_is_not_done_again(tmp_path, monkeypatch):
    class LateLock(FileLock):
        def acquire(self, *arguments, **options):
            (tmp_path / "a").write_text("theirs")
            return super().acquire(*arguments, **options)

    monkeypatch.setattr("mipp.grid.store.FileLock", LateLock)
    seen: list[grid.Job] = []
    grid.sweep([grid.Job("a", tmp_path / "a", lambda path: path.write_text("ours"))], done=seen.append)
    assert not seen
    assert (tmp_path / "a").read_text() == "theirs"


def test_a_job_that_fails_leaves_nothing_behind(tmp_path):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid.once(grid.Job("a", tmp_path / "a", fail))
    assert not (tmp_path / "a").exists()
    grid.once(grid.Job("a", tmp_path / "a", lambda path: path.write_text("whole")))
    assert (tmp_path / "a").read_text() == "whole"


def test_several_trainings_follow_from_the_same_pruned_network(work, tmp_path):
    several = {"1 epoch": RECIPE, "2 epochs": dataclasses.replace(RECIPE, epochs=2)}
    run = grid.Run("l1", L1(), mipp.Budget(nodes=6), 0)
    row = grid.perform(run, dataclasses.replace(work, after=several, compensate=False, top=(1, 3)), tmp_path)
    assert set(row["accuracy"]) == {"dense", "pruned", "pruned, 1 epoch", "pruned, 2 epochs"}
    assert all(row["top-3 accuracy"][stage] >= value for stage, value in row["accuracy"].items())
