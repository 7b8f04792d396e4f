"""Imports: the library loads only what it uses, and the contract about their direction has no hole."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mipp

ROOT = Path(__file__).parents[2]
ROOMS = sorted(path.parent.name for path in (ROOT / "src" / "mipp").glob("*/__init__.py"))
COMMAND_LINE = ("typer", "click", "rich", "jinja2", "filelock", "matplotlib", "sklearn", "transformers", "ray")


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import mipp", ("torch", "numpy", "scipy", *COMMAND_LINE)),
        ("import mipp; mipp.prune, mipp.load, mipp.inspect", ("scipy.stats", "scipy.optimize", *COMMAND_LINE)),
        ("import mipp.cli", ("torch", "numpy", "scipy", "jinja2", "filelock", "matplotlib")),
    ],
)
def test_nothing_is_loaded_that_is_not_used(code, absent):
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(absent) & set(loaded)


def test_an_import_against_the_flow_is_refused_in_every_room(tmp_path):
    """Each room but the uppermost gets one import from the room above it, and each of these is found."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [[room.strip() for room in layer.split("|")] for layer in settings["contracts"][0]["layers"]]
    above = {room: layers[number - 1][0] for number, rooms in enumerate(layers) for room in rooms if number}
    assert {room for rooms in layers for room in rooms} >= set(ROOMS)
    assert not any(room.startswith("(") for rooms in layers for room in rooms)
    shutil.copytree(Path(mipp.__file__).parent, tmp_path / "mipp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ROOMS:
        if room in above:
            (tmp_path / "mipp" / room / "planted.py").write_text(f"import mipp.{above[room]}\n")
    run = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--config", "pyproject.toml"]
    found = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert found.returncode != 0
    missed = [
        room for room in ROOMS if room in above and f"mipp.{room}.planted -> mipp.{above[room]}" not in found.stdout
    ]
    assert not missed
