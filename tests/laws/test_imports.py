"""Imports: the library loads only what it uses, and the contract about their direction has no hole."""

import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import grimp
import pytest

import mipp

ROOT = Path(__file__).parents[2]
ROOMS = sorted(path.parent.name for path in (ROOT / "src" / "mipp").glob("*/__init__.py"))
CLIENTS = ("__main__", "cli", "grid", "integrations", "selectors")
"""Rooms that use the public API: whatever `import mipp` offers."""
LONGEST_CHAIN = 10
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


def test_no_chain_of_imports_is_long():
    """Counted in modules, with imports inside of functions, and without those for types alone."""
    graph = grimp.build_graph("mipp", exclude_type_checking_imports=True, cache_dir=None)

    @cache
    def chain(module: str) -> tuple[str, ...]:
        return (module, *max(map(chain, graph.find_modules_directly_imported_by(module)), key=len, default=()))

    longest = max(map(chain, graph.modules), key=len)
    assert len(longest) <= LONGEST_CHAIN, longest


def test_only_clients_use_the_public_api():
    """The rooms that the API is made of do not import it."""
    graph = grimp.build_graph("mipp", exclude_type_checking_imports=True, cache_dir=None)
    users = {module.split(".")[1] for module in graph.find_modules_that_directly_import("mipp")}
    assert users <= set(CLIENTS)
