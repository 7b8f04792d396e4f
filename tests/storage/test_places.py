"""Folders and files appear whole or not at all."""

import pytest

from mipp.errors import MippError
from mipp.storage.places import new_file, new_folder


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_nothing_is_left_of_what_fails(new, tmp_path):
    def fail() -> None:
        with new(tmp_path / "made") as part:
            (part if new is new_file else part / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_is_there_with_parents_and_nothing_else(tmp_path):
    with new_folder(tmp_path / "a" / "b") as part:
        (part / "file").write_text("whole")
    with new_file(tmp_path / "a" / "c.txt") as part:
        part.write_text("whole")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "a", "a/b", "a/b/file", "a/c.txt",
    ]  # fmt: skip


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_nothing_is_overwritten(new, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("kept")
    target = tmp_path / "there" / "file" if new is new_file else tmp_path / "there"
    with pytest.raises(MippError, match="nothing is overwritten"), new(target):
        pass
    assert (tmp_path / "there" / "file").read_text() == "kept"
