"""Reports of networks with many layers stay readable."""

from dataclasses import replace
from pathlib import Path

import pytest
from reports import REPORT, Page, page

from mipp.report import GroupLine, Report


def deep(names: list[str]) -> Report:
    sensitivity = tuple(tenth / 10 for tenth in range(11))
    lines = [GroupLine(n, 64, 16 + i % 40, 0.1, 1.0, 4000, 1000, sensitivity) for i, n in enumerate(names)]
    return replace(REPORT, groups=tuple(lines))


@pytest.mark.parametrize("names", [[f"conv{i}" for i in range(26)], [f"blocks.{i // 2}.fc{i % 2}" for i in range(300)]])
def test_a_picture_has_at_most_twelve_labels_and_some(names, tmp_path: Path) -> None:
    source = page(deep(names), tmp_path)
    labels = source.partition('<div class="bands">')[2].partition("</div>")[0].count("<span")
    assert 2 <= labels <= 12
    assert f">{names[0].rpartition('.fc')[0] or names[0]}<" in source


def test_names_that_differ_in_numbers_only_come_together_first(tmp_path: Path) -> None:
    names = [f"layers.{i // 2}.{('attention', 'mlp')[i % 2]}" for i in range(300)]
    text = str(deep(names))
    assert len(text.splitlines()) < 50
    assert "layers.*.mlp × 150" in text
    source = page(deep(names), tmp_path)
    assert source.index("layers.<wbr>*.<wbr>mlp × 150") < source.index("<details>")
    assert all(f"layers.<wbr>{i}.<wbr>mlp" in source for i in range(150))


def test_sixty_groups_are_listed_one_by_one() -> None:
    names = [f"layers.{i}.mlp" for i in range(60)]
    assert all(name in str(deep(names)) for name in names)


def test_names_without_a_pattern_are_listed_however_many() -> None:
    names = ["".join(chr(97 + i // 26**p % 26) for p in range(2)) for i in range(90)]
    assert all(f"\n{name} " in str(deep(names)) for name in names)


def test_the_picture_of_sensitivity_marks_the_chosen_width(tmp_path: Path) -> None:
    source = page(deep(["a", "b"]), tmp_path)
    assert source.count('class="chosen"') == 2
    assert source.count('class="shade"') == 20
    assert "100.0 %" not in Page(source).text.partition("What each group could give")[0]
    assert 'class="shade"' not in page(REPORT, tmp_path)
