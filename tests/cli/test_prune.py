"""`mipp prune`: it saves a result that the library reads, under budgets named as in the API."""

import numpy as np
import pytest
import torch
from command_line import _net, prune, refusal, result_of, run
from safetensors.torch import load_file, save_file

import mipp
import mipp.zoo


class TestPrune:
    def test_saves_what_the_library_reads(self):
        answer = run(*prune("--macs", "0.5", "--out", "small"))
        assert answer.exit_code == 0
        assert "Net pruned" in answer.stdout
        assert "open small/report.html" in answer.stderr
        small = mipp.load("small", _net())
        assert small[0].out_features == 4

    def test_weights_come_from_a_file_or_from_a_saved_result(self):
        net = _net()
        save_file(net.state_dict(), "net.safetensors")
        kept = result_of(*prune("--nodes", "4", "--weights", "net.safetensors", "--out", "small"))["kept"]
        calibration = torch.from_numpy(np.load("data.npy")).float()
        assert kept == {"0": list(mipp.prune(net, calibration, mipp.Budget(nodes=4)).plan.kept["0"])}
        again = result_of(*prune("--nodes", "2", "--weights", "small", "--no-compensate", "--out", "smaller"))
        assert again["report"]["before"]["nodes"] == 4
        assert torch.isin(
            load_file("smaller/model.safetensors")["0.weight"], load_file("small/model.safetensors")["0.weight"]
        ).all()

    @pytest.mark.parametrize(
        ("options", "budget", "nodes"),
        [
            (["--macs", "0.5"], {"macs": 0.5}, 4),
            (["--macs", "28"], {"macs": 28}, 4),
            (["--params", "0.6"], {"params": 0.6}, 4),
            (["--nodes", "6", "--round-to", "4"], {"nodes": 6, "round_to": 4}, 4),
            (["--nodes", "6", "--macs", "0.4", "--min-keep", "2"], {"nodes": 6, "macs": 0.4, "min_keep": 2}, 3),
            (["--width", "0=3", "--uniform"], {"widths": {"0": 3}, "uniform": True}, 3),
        ],
    )
    def test_budgets_have_the_names_of_the_api(self, options, budget, nodes):
        report = result_of(*prune(*options, "--quiet"))["report"]
        assert report["budget"] == budget
        assert report["after"]["nodes"] == nodes

    def test_fields_of_the_method_are_set_by_their_type(self):
        settings = ["scope=global", "normalize=false"]
        options = ["--method", "l1", "--nodes", "4", *(part for text in settings for part in ("--set", text))]
        report = result_of(*prune(*options, data="data.safetensors"))["report"]
        assert report["method"] == "L1(scope='global', normalize=False)"

    def test_without_a_budget_the_confidence_decides(self):
        report = result_of(*prune("--set", "confidence=0.9", "--set", "order=mi"))["report"]
        assert "order='mi'" in report["method"]
        assert "confidence=0.9" in report["method"]

    def test_data_by_name_are_evaluated_unless_told_otherwise(self):
        options = prune("--nodes", "0.5", "--max-samples", "64", model="nets:Digits", data="digits")
        report = result_of(*options)["report"]
        assert 0 <= report["after"]["metrics"]["accuracy"] <= 100
        assert result_of(*options, "--no-evaluate")["report"]["after"]["metrics"] == {}

    def test_a_level_of_effort_is_recorded_and_an_unknown_one_refused(self):
        report = result_of(*prune("--nodes", "4", "--effort", "fast"))["report"]
        assert "effort='fast'" in report["call"]
        assert "effort='quick' is unknown" in refusal(*prune("--nodes", "4", "--effort", "quick"))

    def test_a_checkpoint_is_taken_up(self):
        options = prune("--nodes", "4", "--checkpoint", "point")
        assert not result_of(*options)["resumed"]
        assert result_of(*options)["resumed"]

    def test_quiet_leaves_stderr_to_others(self):
        assert run(*prune("--nodes", "4", "--quiet")).stderr == "imported\n"

    def test_an_output_folder_is_refused_before_anything_is_done(self):
        answer = refusal("prune", "no_such:Net", "--data", "data.npy", "--nodes", "4", "--out", ".")
        assert "--out . exists already; nothing is overwritten" in answer
