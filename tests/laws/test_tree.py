"""Tests mirror the packages: the file that tests a module has its name."""

import ast
from pathlib import Path

SOURCE, TESTS = Path(__file__).parents[2] / "src/mipp", Path(__file__).parents[1]


def test_every_test_file_in_a_room_tests_a_module_of_it():
    """Or one aspect of it (test_prune_forms.py), or the room as a whole (cli/test_cli.py)."""
    strangers = []
    for path in TESTS.rglob("test_*.py"):
        room = SOURCE / path.parent.relative_to(TESTS)
        names = {p.stem for p in room.glob("*.py")} | {room.name}
        if room.is_dir() and room != SOURCE and not any(f"{path.stem}_".startswith(f"test_{n}_") for n in names):
            strangers.append(str(path.relative_to(TESTS)))
    assert not strangers, strangers


def test_every_module_with_behaviour_has_a_test_file_of_its_name():
    """Behaviour is a function or a method; data and re-exports have none."""
    untested = []
    for path in SOURCE.rglob("*.py"):
        room = TESTS / path.parent.relative_to(SOURCE)
        behaves = any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(path.read_text())))
        tested = any(f"{test.stem}_".startswith(f"test_{path.stem}_") for test in room.glob("test_*.py"))
        if behaves and not tested and not path.stem.startswith("__"):
            untested.append(str(path.relative_to(SOURCE)))
    assert not untested, untested
