"""Every example runs, and is short."""

import runpy
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
EXAMPLES = [path for path in FILES if path.stem != "yolo"]  # which needs a detector: test_yolo.py
NEEDS = {"decoder": "transformers", "deployment": "onnxruntime"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_example_is_short(path):
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs(path, monkeypatch, tmp_path, capsys):
    pytest.importorskip(NEEDS.get(path.stem, "torch"))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
