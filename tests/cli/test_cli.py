"""The command as a whole: help, names, and the list of methods."""

import json
import shlex
import subprocess
import sys

import pytest
import typer
from command_line import result_of, run
from typer.testing import CliRunner

import mipp
import mipp.zoo
from mipp.cli import app, main


class TestMethods:
    def test_lists_every_method(self):
        listed = result_of("methods")
        assert listed.keys() == mipp.methods.all().keys()
        assert listed["mipp"]["fields"]["order"] == "greedy"
        assert listed["mipp"]["summary"].startswith("Removes the nodes")
        text = run("methods").stdout
        assert all(name in text for name in listed)


def test_alone_it_shows_five_things_that_are_commands():
    lines = run().stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines).replace("\\\n", " ")
    shown = [shlex.split(line) for line in text.splitlines() if line.startswith("      mipp ")]
    assert len(shown) == 5
    for _, name, *options in shown:
        typer.main.get_command(app).commands[name].make_context(name, options)


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


def test_help_does_not_wait_for_torch():
    code = "import sys, mipp, mipp.cli; print('torch' in sys.modules, mipp.prune and 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False True\n"


def test_every_public_name_is_there():
    assert set(mipp.__all__) <= {*vars(mipp), *(n for names in mipp._FOUND_IN.values() for n in names)}
    for name in set(mipp.__all__) - {"FeatureSelector"}:  # needs an extra
        assert getattr(mipp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = mipp.prun


def commands():
    return ["demo", "inspect", "prune", "frontier", "select", "compare", "report", "export", "methods"]


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
