"""Paths that a caller names."""

from pathlib import Path

import pytest

from mipp.errors import MippError
from mipp.runtime.paths import as_path


def test_a_path_need_not_exist(tmp_path):
    assert as_path(str(tmp_path / "no" / "where")) == tmp_path / "no" / "where"
    assert as_path(Path()) == Path()


@pytest.mark.parametrize("given", ["", None, 3, b"bytes", "null\0byte", "x" * 5000])
def test_what_no_file_system_can_have_is_refused_in_words(given):
    with pytest.raises(MippError, match="path") as caught:
        as_path(given)
    assert len(str(caught.value)) < 400
