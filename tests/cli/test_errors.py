"""Every mistake is told in one paragraph, or as JSON."""

import json

import numpy as np
import pytest
import torch
from command_line import prune, refusal, run
from safetensors.torch import save_file

import mipp
import mipp.zoo


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["prun"], "No such command 'prun'. Did you mean 'prune'?"),
            (["inspect", "nets:Net"], "Missing option '--input'. See mipp inspect --help."),
            (["inspect", "nets:Net", "--inptu", "2,4"], "No such option"),
            (prune("--nodes", "4", "--seed", "x"), "'--seed'"),
            (["inspect", "nets", "--input", "2,4"], "expected an import path: package.module:factory"),
            (["inspect", "resnet56", "--input", "2,4"], "expected an import path: mipp.zoo:resnet56"),
            (["inspect", "nets.py:Net", "--input", "2,4"], "expected an import path, without .py: nets:Net."),
            (prune("--nodes", "4", "--method", "taylor", data="data.npy"), "taylor needs labels; expected a data set"),
            (["inspect", "nest:Net", "--input", "2,4"], "nest cannot be imported; expected a module that is installed"),
            (["inspect", "nets:Nett", "--input", "2,4"], "No factory in nets is called 'Nett'; did you mean 'Net'?"),
            (["inspect", "nets:Needy", "--input", "2,4"], "nets:Needy needs width, depth; expected a factory without"),
            (["inspect", "nets:failing", "--input", "2,4"], "nets:failing() failed with ValueError: no such luck"),
            (["inspect", "nets:wrong", "--input", "2,4"], "returned a str; expected an nn.Module"),
            (["inspect", "nets:number", "--input", "2,4"], "nets:number is a int; expected an nn.Module"),
            (["inspect", "nets:Net", "--input", "2x4"], "--input is '2x4'; expected the shape of one input"),
            (["inspect", "nets:Net", "--input", "2,4:int46"], "did you mean 'int64'?"),
            (["inspect", "nets:Net", "--input", "2,5"], "Net.forward raised RuntimeError"),
            (
                ["inspect", "nets:Net", "--input", "2,4", "--weights", "no.safetensors"],
                "There is no file no.safetensors",
            ),
            (
                ["inspect", "nets:Net", "--input", "2,4", "--weights", "data.npy"],
                "data.npy is no readable file of weights",
            ),
            (
                ["inspect", "nets:Net", "--input", "2,4", "--weights", "data.safetensors"],
                "it lacks 0.bias, 0.weight, 2.bi",
            ),
            (["inspect", "nets:Net", "--input", "2,4", "--weights", "."], "There is no plan at plan.json"),
            (prune("--nodes", "4", "--method", "l3"), "No method is called 'l3'; did you mean 'l2'?"),
            (prune("--set", "ordre=mi"), "No field of mipp is called 'ordre'; did you mean 'order'?"),
            (prune("--set", "order=best"), "--set order=best: expected greedy or mi or loss."),
            (prune("--set", "confidence=high"), "--set confidence=high: expected float or none."),
            (prune("--set", "order"), "--set is 'order'; expected FIELD=VALUE"),
            (prune("--macs", "half"), "--macs is 'half'; expected a fraction such as 0.5"),
            (prune("--macs", "1.5"), "--macs is '1.5'; expected a fraction such as 0.5"),
            (prune("--macs", "0.001"), "raise macs to"),
            (prune("--width", "0"), "--width is '0'; expected GROUP=N"),
            (prune("--width", "0=few"), "'few' is no number of nodes"),
            (prune("--width", "0=3", "--width", "0=2"), "--width names 0 twice, with 3 and 2"),
            (prune("--nodes", "4", data="digit"), "No data set is called 'digit'; did you mean 'digits'?"),
            (prune("--nodes", "4", data="data.csv"), "expected digits, mnist, cifar10, cifar100, a .safetensors or"),
            (prune("--nodes", "4", data="no.npy"), "There is no file no.npy"),
            (prune("--nodes", "4", data="nets.safetensors"), "There is no file nets.safetensors"),
            (prune("--nodes", "4", "--evaluate"), "--evaluate needs data with labels"),
            (prune("--nodes", "4", "--device", "gpu"), "--device gpu cannot be used"),
            (prune("--nodes", "4", "--exclude", "head"), "exclude names 'head'"),
            (prune(), "Nothing says how small the network is to be; expected --macs 0.5"),
            (prune("--nodes", "4", "--method", "imp"), "imp trains the network, and no option says how"),
            (prune("--nodes", "4", "--recover", "destill"), "recover='destill' is unknown; expected 'distill'"),
            (["export", "nets:Net", "--input", "1,5", "--out", "net.pt2"], "forward raised RuntimeError"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_every_mistake_is_one_paragraph(self, arguments, expected):
        assert expected in refusal(*arguments)

    def test_files_of_another_form(self):
        save_file({"x": torch.zeros(2)}, "other.safetensors")
        np.save("objects.npy", np.array([{}], dtype=object))
        assert "other.safetensors holds x; expected a tensor 'input'" in refusal(*prune(data="other.safetensors"))
        assert "objects.npy cannot be read as .npy" in refusal(*prune(data="objects.npy"))

    def test_with_json_an_error_is_json_on_stdout(self):
        for arguments, kind in (
            (prune(data="digit"), "CommandError"),
            (["prune", "--mcas", "1"], None),
            (["prun"], None),
        ):
            answer = run(*arguments, "--json")
            assert answer.exit_code == 2
            error = json.loads(answer.stdout)["error"]
            assert error.keys() == {"type", "message"}
            assert kind in (None, error["type"])

    def test_the_traceback_is_for_those_who_ask_anywhere(self):
        for arguments in (["--debug", *prune(data="digit")], prune("--debug", data="digit")):
            answer = run(*arguments)
            assert answer.exit_code == 2
            assert "Traceback (most recent call last)" in answer.stderr

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (KeyboardInterrupt(), 130, "Interrupted."),
            (RuntimeError("odd\nthing"), 1, "Error: RuntimeError: odd thing. The model, or mipp, did not expect this"),
        ],
    )
    def test_interruptions_and_surprises(self, monkeypatch, error, code, text):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(mipp, "prune", fail)
        answer = run(*prune("--nodes", "4", "--quiet"))
        assert answer.exit_code == code
        assert answer.stderr.splitlines()[-1].startswith(text)
        assert answer.stdout == ""
