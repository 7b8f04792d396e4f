"""`mipp frontier`: the curve on the screen, and a folder for each budget whose report draws it."""

import json
from pathlib import Path

import torch
from command_line import _net, refusal, result_of, run
from safetensors.torch import save_file

import mipp


def frontier(*options):
    return (
        "frontier",
        "nets:Net",
        "--data",
        "data.safetensors",
        "--budgets",
        "nodes=0.75,nodes=0.5:round_to=2",
        *options,
    )


def test_every_budget_has_a_folder_and_a_line():
    save_file(_net().state_dict(), "net.safetensors")
    shown = run(*frontier("--weights", "net.safetensors", "--out", "curve"))
    assert shown.exit_code == 0, shown.output
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [
        "budget",
        "dense",
        "nodes=0.75",
        "nodes=0.5_round_to=2",
    ]
    assert mipp.load("curve/nodes=0.75", _net())[0].out_features == 6
    report = json.loads(Path("curve/nodes=0.75/report.json").read_text())
    assert [point["measures"]["nodes"] for point in report["frontier"]] == [6, 4]
    page = Path("curve/nodes=0.75/report.html").read_text()
    assert page.count('class="own"') == 1
    assert page.count('class="other"') == 2


def test_it_speaks_json_and_refuses_a_folder_that_is_not_empty():
    found = result_of(*frontier())["results"]
    assert [row["report"]["after"]["nodes"] for row in found] == [6, 4]
    Path("curve").mkdir()
    Path("curve/notes.txt").write_text("mine")
    assert "nothing is overwritten" in refusal(*frontier("--out", "curve"))


def test_rounds_of_pruning_have_one_plan_for_the_dense_model():
    save_file(_net().state_dict(), "net.safetensors")
    weights = "net.safetensors"
    for nodes in (6, 4, 2):
        answer = run(
            "prune", "nets:Net", "--data", "data.npy", "--nodes", nodes, "--weights", weights, "--out", f"to{nodes}"
        )
        assert answer.exit_code == 0, answer.output
        weights = f"to{nodes}"
    x = torch.randn(5, 4)
    last = mipp.load("to2", _net())
    assert last[0].out_features == 2
    assert mipp.load_plan("to2/plan.json").groups["0"].size == 8
    torch.testing.assert_close(last(x), mipp.load("to2", lambda: _net())(x), rtol=0, atol=0)


def test_a_budget_that_is_there_twice_is_refused_before_any_work():
    assert "nodes=0.5 twice" in refusal(
        "frontier", "nets:Net", "--data", "data.npy", "--budgets", "nodes=0.5,nodes=0.5"
    )


def test_where_a_folder_cannot_be_written_none_is(monkeypatch):
    written = []
    monkeypatch.setattr(
        "mipp.cli.frontier.saver", lambda source: lambda *given: written.append(1) or 1 / (2 - len(written))
    )
    run(*frontier("--out", "curve"))
    assert len(written) == 2
    assert not Path("curve").exists()
