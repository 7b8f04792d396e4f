"""Plots of a grid: a file for each cost that is known, for what layers keep, and for collapse."""

import pytest

from mipp import grid

pytest.importorskip("matplotlib")


def row(method: str, seed: int) -> dict:
    return {
        "method": method, "budget": {"macs": 0.5}, "seed": seed, "accuracy": {"dense": 90.0, "pruned": 80.0 + seed},
        "macs": 0.4, "params": 0.5, "collapsed": [], "keep": {"a": 0.5, "b": 0.3}, "seconds": {"selection": 1.0},
    }  # fmt: skip


def test_plots_are_of_what_was_measured(tmp_path):
    paths = grid.draw([row(method, seed) for method in ("l1", "mipp") for seed in range(2)], tmp_path)
    assert {path.name for path in paths} == {
        "accuracy-macs.svg", "accuracy-params.svg", "keep-ratios.svg", "collapse.svg",
    }  # fmt: skip
    assert all(b"</svg>" in path.read_bytes() for path in paths)


def test_runs_that_failed_leave_nothing_to_plot(tmp_path):
    assert grid.draw([{**row("l1", 0), "error": "MippError: no"}], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
