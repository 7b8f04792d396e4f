"""The page needs nothing from outside, says everything, and no name can break it."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from reports import REPORT, SCRIPT, Page, named, names, page

from mipp.errors import MippError


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    parsed = Page(page(REPORT, tmp_path))
    assert not parsed.tags & {"script", "img", "iframe", "object", "embed", "base", "form", "a"}
    assert all(value == "data:," for name, value in parsed.attributes if name in {"src", "href"})
    assert "http:" not in page(REPORT, tmp_path)
    assert "https:" not in page(REPORT, tmp_path)
    assert "prefers-color-scheme: dark" in parsed.text


def test_page_says_everything(tmp_path: Path) -> None:
    text = Page(page(REPORT, tmp_path)).text
    for part in (
        "61,706",
        "416,520",
        "× 0.259",
        "4 / 6",
        "95.0 %",
        "fine-tuned",
        "aten.fft_fft.default",
        "lenet.py:12",
    ):
        assert part in text
    for part in (
        REPORT.call,
        REPORT.method,
        "aux",
        "the proof run agreed",
        "the op has no rule",
        "2.13.0",
        "limit × 0.500",
    ):
        assert part in text


def test_page_escapes_every_name(tmp_path: Path) -> None:
    source = page(named(SCRIPT), tmp_path)
    assert SCRIPT not in source
    assert "script" not in Page(source).tags
    assert source.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 20


@settings(max_examples=40, deadline=None)
@given(name=names())
def test_no_name_breaks_the_page(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    plain, strange = Page(page(named("x.y"), folder)), Page(page(named(name), folder))
    assert strange.tags <= plain.tags
    assert {name for name, _ in strange.attributes} <= {name for name, _ in plain.attributes}


def test_page_without_information(tmp_path: Path) -> None:
    text = Page(page(replace(REPORT, groups=REPORT.groups[1:]), tmp_path)).text
    assert "31 / 120" in text
    assert "this method does not measure information" in text


def test_page_warns_of_what_grew(tmp_path: Path) -> None:
    assert 'class="warn"' not in page(REPORT, tmp_path)
    assert 'class="warn"' in page(replace(REPORT, after=replace(REPORT.after, latency_ms=2.0)), tmp_path)


def test_many_frozen_layers_are_folded(tmp_path: Path) -> None:
    frozen = tuple(replace(REPORT.frozen[0], name=f"head.{i}") for i in range(40))
    source = page(replace(REPORT, frozen=frozen), tmp_path)
    assert "<details>" in source
    assert "<details open>" not in source
    assert "head.39" in Page(source).text


def test_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(MippError, match=r"the folder '.*missing' does not exist; create it first"):
        REPORT.to_html(tmp_path / "missing" / "report.html")


def test_path_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(MippError, match="it is a folder; expected a file"):
        REPORT.to_html(tmp_path)


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(MippError, match="disk full"):
            REPORT.to_html(path)
    assert path.read_text() == "old"
    REPORT.to_html(str(path))
    assert path.read_text(encoding="utf-8").lstrip().startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
