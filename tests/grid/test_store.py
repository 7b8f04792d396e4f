"""Several processes share the runs of one folder."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import pytest
from filelock import FileLock

import mipp
from mipp import grid
from mipp.methods import L1, ThiNet

pytestmark = pytest.mark.usefixtures("quick")


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
