"""Tests mirror the packages: the file that tests a module has its name."""

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
