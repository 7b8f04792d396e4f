"""`mipp inspect`: groups, frozen layers, models and inputs by name."""

import pytest
import torch
from command_line import _net, result_of, run

import mipp
import mipp.zoo


class TestInspect:
    def test_shows_groups_and_frozen_layers(self):
        answer = run("inspect", "nets:Net", "--input", "2,4")
        assert answer.exit_code == 0
        expected = str(mipp.inspect(_net(), torch.randn(2, 4))).replace("Sequential", "Net")
        assert answer.stdout.split() == expected.split()

    def test_json_is_all_there_is_on_stdout_although_the_module_prints(self):
        found = result_of("inspect", "nets:Net", "--input", "2,4")
        assert [(g["name"], g["size"]) for g in found["groups"]] == [("0", 8)]
        assert found["frozen"][0]["name"] == "2"

    @pytest.mark.parametrize(
        ("model", "inputs", "sizes"),
        [
            ("nets:made", ["2,4"], [8]),
            ("nets:Tokens", ["1,5:int64"], [6, 6]),
            ("nets:Two", ["2,4", "2,4"], [8, 8]),
            ("mipp.zoo:LeNet5", ["1,1,28,28"], [6, 16, 120, 84]),
        ],
    )
    def test_factories_instances_and_inputs(self, model, inputs, sizes):
        options = [part for text in inputs for part in ("--input", text)]
        assert [g["size"] for g in result_of("inspect", model, *options)["groups"]] == sizes

    def test_excluded_modules_are_frozen(self):
        assert result_of("inspect", "nets:Net", "--input", "2,4", "--exclude", "0")["groups"] == []
