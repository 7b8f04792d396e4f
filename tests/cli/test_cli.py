"""The command: results on stdout, everything else on stderr, one paragraph for every mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import mipp
import mipp.zoo
from mipp.cli import app, main

NETS = """
import torch
from torch import nn

print("imported")

class Net(nn.Sequential):
    def __init__(self, hidden=8):
        super().__init__(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

class Tokens(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 2))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Net(), Net()
    def forward(self, x, y):
        return self.a(x) + self.b(y)

class Needy(nn.Module):
    def __init__(self, width, depth):
        super().__init__()

class Digits(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

made = Net()
number = 3

def failing():
    raise ValueError("no such luck")

def wrong():
    return "a string"
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """An empty current directory with the module `nets`, and an import state that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr("mipp.plan.latency.latency_ms", lambda *_: 1.0)  # measuring takes its time
    (tmp_path / "nets.py").write_text(NETS)
    np.save("data.npy", np.random.default_rng(0).normal(size=(64, 4)))
    save_file({"input": torch.randn(64, 4), "labels": torch.randint(0, 3, (64,))}, "data.safetensors")
    yield
    sys.modules.pop("nets", None)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def result_of(*arguments):
    """The answer of the command with --json."""
    answer = run(*arguments, "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def refusal(*arguments):
    """The paragraph with which the command refuses."""
    answer = run(*arguments)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert "Traceback" not in answer.stderr
    return last


def prune(*arguments, model="nets:Net", data="data.npy"):
    return ("prune", model, "--data", data, *arguments)


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

    def test_a_checkpoint_is_taken_up(self):
        options = prune("--nodes", "4", "--checkpoint", "point")
        assert not result_of(*options)["resumed"]
        assert result_of(*options)["resumed"]

    def test_quiet_leaves_stderr_to_others(self):
        assert run(*prune("--nodes", "4", "--quiet")).stderr == "imported\n"

    def test_an_output_folder_is_refused_before_anything_is_done(self):
        answer = refusal("prune", "no_such:Net", "--data", "data.npy", "--nodes", "4", "--out", ".")
        assert "--out . exists already; nothing is overwritten" in answer


class TestMethods:
    def test_lists_every_method(self):
        listed = result_of("methods")
        assert listed.keys() == mipp.methods.all().keys()
        assert listed["mipp"]["fields"]["order"] == "greedy"
        assert listed["mipp"]["summary"].startswith("Removes the nodes")
        text = run("methods").stdout
        assert all(name in text for name in listed)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["prun"], "No such command 'prun'. Did you mean 'prune'?"),
            (["inspect", "nets:Net"], "Missing option '--input'"),
            (["inspect", "nets:Net", "--inptu", "2,4"], "No such option: --inptu"),
            (prune("--nodes", "4", "--seed", "x"), "'--seed'"),
            (["inspect", "nets", "--input", "2,4"], "expected an import path: package.module:factory"),
            (["inspect", "resnet56", "--input", "2,4"], "expected an import path: mipp.zoo:resnet56"),
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
            (prune("--set", "order=best"), "--set order=best: expected greedy or mi."),
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


class TestDemo:
    def test_shows_saves_and_replaces_only_its_own(self, monkeypatch, tmp_path):
        load = mipp.zoo.load
        monkeypatch.setattr(mipp.zoo, "load", lambda *which: load(*which).subset(slice(128)))
        answer = run("demo", "--epochs", "1")
        assert answer.exit_code == 0, answer.output
        for heading in ("accuracy", "fine-tuned", "parameters", "MACs", "latency", "nats kept"):
            assert heading in answer.stdout
        assert "mipp inspect mipp.zoo:DigitsCNN" in answer.stderr

        first = (tmp_path / "runs/demo/plan.json").read_bytes()
        reports = result_of("demo", "--epochs", "1", "--quiet")["reports"]
        assert (tmp_path / "runs/demo/plan.json").read_bytes() == first
        for share, folder in (("50", "runs/demo"), ("20", "runs/demo/20")):
            macs = [reports[share][stage]["macs"] for stage in ("before", "after")]
            assert macs[1] <= macs[0] * int(share) / 100
            assert reports[share]["stages"].keys() == {"fine-tuned"}
            assert json.loads((tmp_path / folder / "report.json").read_text()) == reports[share]
            small = mipp.load(folder, mipp.zoo.DigitsCNN)
            assert sum(p.numel() for p in small.parameters()) == reports[share]["after"]["params"]

        (tmp_path / "runs/demo/notes.txt").write_text("mine")
        assert "runs/demo holds files that are not, or not only" in refusal("demo")
        assert (tmp_path / "runs/demo/notes.txt").exists()

    def test_refuses_what_no_demo_wrote(self, tmp_path):
        run(*prune("--nodes", "4", "--out", "other/20"))
        run(*prune("--nodes", "4", "--out", "small"))
        for name in ("plan.json", "model.safetensors", "report.json", "report.html"):
            (tmp_path / "small" / name).rename(tmp_path / "other" / name)
        (tmp_path / "link").symlink_to("other")
        before = sorted(tmp_path.rglob("*"))
        for name in (".", "other", "link", "nets.py"):
            refusal("demo", "--out", name)
        assert sorted(tmp_path.rglob("*")) == before


def test_help_names_the_commands():
    for answer in (run(), run("--help"), run("-h")):
        assert answer.exit_code == 0
        assert all(name in answer.stdout for name in ("demo", "inspect", "prune", "methods"))
    assert run("--version").stdout.startswith("mipp ")
    assert main.__module__ == "mipp.cli"


def test_the_command_as_it_is_installed():
    command = [
        sys.executable,
        "-c",
        "from mipp.cli import main; main()",
        "inspect",
        "nets:Net",
        "--input",
        "2,4",
        "--json",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["nodes"] == 8
    assert answer.stderr == "imported\n"


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class TestReportAndExport:
    def test_the_report_of_a_saved_result_is_shown_again(self, tmp_path):
        shown = run(*prune("--nodes", "4", "--out", "small")).stdout
        assert run("report", "small").stdout == shown
        assert result_of("report", "small") == json.loads((tmp_path / "small/report.json").read_text())
        assert run("report", "small", "--html", "page.html").exit_code == 0
        assert (tmp_path / "page.html").read_text() == (tmp_path / "small/report.html").read_text()

    def test_a_pruned_model_is_exported_and_checked(self):
        run(*prune("--nodes", "4", "--out", "small"))
        options = ("export", "nets:Net", "--input", "2,4", "--weights", "small", "--out", "small.pt2")
        assert result_of(*options)["difference"] < 1e-5
        assert torch.export.load("small.pt2").module()(torch.randn(5, 4)).shape == (5, 3)
        assert "small.pt2 exists already" in refusal(*options)

    def test_what_is_no_saved_result_is_refused(self, tmp_path):
        assert "There is no small/report.json" in refusal("report", "small")
        (tmp_path / "report.json").write_text("{")
        assert "damaged" in refusal("report", ".")
        (tmp_path / "report.json").write_text("{}")
        assert "lacks the field" in refusal("report", ".")
        assert ".onnx or .pt2" in refusal("export", "nets:Net", "--input", "2,4", "--out", "small.bin")


def test_help_does_not_wait_for_torch():
    code = "import sys, mipp, mipp.cli; print('torch' in sys.modules, mipp.Budget() and 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False True\n"


def test_every_public_name_is_there():
    assert set(mipp.__all__) <= {*vars(mipp), *(n for names in mipp._FOUND_IN.values() for n in names)}
    for name in set(mipp.__all__) - {"FeatureSelector"}:  # needs an extra
        assert getattr(mipp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = mipp.prun


def commands():
    return ["demo", "inspect", "prune", "select", "compare", "report", "export", "methods"]


@pytest.mark.parametrize("command", [[], *([name] for name in commands())], ids=" ".join)
def test_help_fits_eighty_columns_and_cuts_no_word(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, [*command, "--help"]).output
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_the_package_tells_its_version_and_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mipp", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"mipp {mipp.__version__}"


def test_the_network_and_the_data_that_help_names_first_go_together():
    done = CliRunner().invoke(
        app, ["select", "mipp.zoo:DigitsCNN", "--data", "digits", "--num-features", "8", "--json"]
    )
    assert done.exit_code == 0, done.output


def test_factories_are_those_that_make_models():
    message = CliRunner().invoke(app, ["inspect", "mipp.zoo:nothing_like_it", "--input", "1,1,8,8"]).output
    assert "resnet56" in message
    assert "training" not in message
    assert "accuracy" not in message
