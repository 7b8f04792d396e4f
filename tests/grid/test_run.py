"""The grid runner: every combination once, named by its options, finished runs skipped, failures told."""

import dataclasses

import pytest
import torch

import mipp
from mipp import grid, zoo
from mipp.methods import L1, Random, Reinitialised, ThiNet

pytestmark = pytest.mark.usefixtures("quick")


def test_runs_are_every_combination_seed_by_seed():
    todo = grid.runs({"l1": L1(), "random": Random()}, [mipp.Budget(macs=0.5), mipp.Budget(macs=0.2)], range(2))
    assert len(todo) == 8
    assert [run.seed for run in todo] == [0] * 4 + [1] * 4
    assert len({(run.label, run.budget.macs, run.seed) for run in todo}) == 8


def test_a_run_measures_every_stage_and_is_done_once(work, tmp_path, monkeypatch):
    run = grid.Run("thinet", ThiNet(), mipp.Budget(nodes=6), 0)
    row = grid.perform(run, work, tmp_path)
    assert set(row["accuracy"]) == {"dense", "pruned", "pruned, trained", "refitted", "refitted, trained"}
    assert row["accuracy"]["refitted"] >= row["accuracy"]["pruned"] - 5
    assert row["nodes"] == 0.5
    assert row["widths"] == {"1": 6}
    monkeypatch.setattr("mipp.prune", None)  # whatever prunes again, fails
    again = grid.perform(run, work, tmp_path)
    assert {k: again[k] for k in row} == row
    assert [r["accuracy"] for r in grid.collect(tmp_path)] == [row["accuracy"]]


def test_results_put_back_from_elsewhere_are_not_done_again(work, tmp_path, monkeypatch):
    runs = grid.runs({"random": Random()}, [mipp.Budget(nodes=0.5)], range(2))
    rows = [grid.perform(run, work, tmp_path / "first") for run in runs]
    grid.restore(rows[:1], tmp_path / "second")
    assert grid.read_results(runs, work, tmp_path / "second") == rows[:1]
    monkeypatch.setattr(mipp, "prune", None)
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
