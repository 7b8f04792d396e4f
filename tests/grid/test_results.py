"""Results of runs in files: what is read back, and what is refused."""

import json

import pytest

import mipp
from mipp.grid.results import read_row

HEAD = {"method": "l1", "record": "L1()", "budget": {"macs": 0.5}, "seed": 0, "workload": {"name": "small"}}
ROW = {
    **HEAD,
    "accuracy": {"dense": 97.0, "pruned": 91.5},
    "macs": 0.5,
    "keep": {"1": 0.5},
    "widths": {"1": 6},
    "collapsed": [],
    "seconds": {"selection": 0.1, "whole": 0.2, "run": 0.3, "training": 0.0},
}


def written(row, path):
    path.write_text(row if isinstance(row, str) else json.dumps(row))
    return path


@pytest.mark.parametrize("row", [ROW, {**HEAD, "error": "no plan"}], ids=["finished", "refused"])
def test_a_result_is_what_was_written(row, tmp_path):
    found = read_row(written(row, tmp_path / "row.json"))
    assert {name: json.loads(json.dumps(found[name])) for name in row} == row


@pytest.mark.parametrize(
    "row",
    ["", "[]", "3", "{}", '{"error": 1}', {**ROW, "seed": "x"}, {**ROW, "accuracy": 3}, {**ROW, "seconds": {}},
     {**HEAD, "error": None}, {**ROW, "keep": {"1": "all"}}, {**ROW, "accuracy": {"dense": None}},
     {**ROW, "macs": float("inf")}],
    ids=str,
)  # fmt: skip
def test_what_is_damaged_is_refused(row, tmp_path):
    with pytest.raises(mipp.MippError, match=r"row.json is no result of a run .*; remove it"):
        read_row(written(row, tmp_path / "row.json"))
