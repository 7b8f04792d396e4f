"""A run is named by its options, and a workload trains what it is told to."""

import dataclasses

import pytest
from digits_runs import RECIPE

import mipp
from mipp import grid
from mipp.methods import L1

pytestmark = pytest.mark.usefixtures("quick")


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


def test_results_of_different_workloads_are_not_mixed(work, tmp_path):
    run = grid.Run("l1", L1(), mipp.Budget(macs=0.5), 0)
    plain = dataclasses.replace(work, before=grid.Recipe(), after=grid.Recipe(), compensate=False)
    for samples in (32, 64):
        grid.perform(run, dataclasses.replace(plain, samples=samples), tmp_path)
    with pytest.raises(mipp.MippError, match="2 different workloads"):
        grid.collect(tmp_path)


def test_several_trainings_follow_from_the_same_pruned_network(work, tmp_path):
    several = {"1 epoch": RECIPE, "2 epochs": dataclasses.replace(RECIPE, epochs=2)}
    run = grid.Run("l1", L1(), mipp.Budget(nodes=6), 0)
    row = grid.perform(run, dataclasses.replace(work, after=several, compensate=False, top=(1, 3)), tmp_path)
    assert set(row["accuracy"]) == {"dense", "pruned", "pruned, 1 epoch", "pruned, 2 epochs"}
    assert all(row["top-3 accuracy"][stage] >= value for stage, value in row["accuracy"].items())
