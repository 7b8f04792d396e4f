"""The text of a report fits a terminal."""

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from reports import EMPTY, REPORT, Page, named, names, page
from rich.cells import cell_len
from rich.console import Console

from mipp.report import GroupLine

TEXT = """\
LeNet pruned
method  MIPP(estimator='gaussian')
budget  macs=0.5 (0.062 % of dense unused) · min_keep=1

               dense     pruned   change  fine-tuned
accuracy      0.9912     0.9750  −0.0162      0.9905
parameters   61.71 k    16.00 k  × 0.259     16.00 k
MACs         416.5 k    208.0 k  × 0.499     208.0 k
nodes            226         74  × 0.327          74
latency     1.250 ms  0.7500 ms  × 0.600   0.7500 ms

2 groups, from input to output
           kept                 MACs  nats kept
conv1     4 / 6  ██████▋···  × 0.667     95.0 %
fc1    31 / 120  ██▋·······  × 0.167          –

Collapsed: every node was removed, a silent mask is left
  aux

Frozen: 3 layers with 26 nodes, kept whole
  the model returns it
    aten.addmm.default · lenet.py:30
    fc3 (10)
  the op has no rule
    aten.fft_fft.default · lenet.py:12
    gate.0 (8), gate.1 (8)

Notes
·  the proof run agreed
"""


def test_text_reads_as_written() -> None:
    assert str(REPORT).startswith(TEXT)


def test_text_says_everything() -> None:
    text = str(REPORT)
    for part in (
        "4 / 6",
        "95.0 %",
        "31 / 120",
        "× 0.167",
        "aux",
        "the proof run agreed",
        "surgery 0.25",
        "torch 2.13.0",
    ):
        assert part in text
    assert text.count("the op has no rule") == 1
    assert "gate.0 (8), gate.1 (8)" in text


def test_information_column_only_where_measured() -> None:
    assert "nats kept" in str(REPORT)
    assert "nats kept" not in str(replace(REPORT, groups=REPORT.groups[1:]))


def test_empty_report_renders(tmp_path: Path) -> None:
    assert str(EMPTY).startswith("M pruned\nmethod  Random()")
    assert "0 of 0 nodes are kept." in Page(page(EMPTY, tmp_path)).text


@settings(max_examples=40, deadline=None)
@given(names())
def test_text_never_exceeds_80_columns(name: str) -> None:
    text = str(named(name))
    assert max(map(cell_len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e-30, -1e30, 12345.6, 0.0, 99999.99, 10**17])
def test_extreme_numbers_fit(value: float, tmp_path: Path) -> None:
    before, after = replace(REPORT.before, metrics={"loss": value}), replace(REPORT.after, metrics={"loss": -value})
    groups = (GroupLine("a" * 200, 10**9, 10**9, value, 1.0, 10**15, 1), replace(REPORT.groups[0], size=0, kept=0))
    stages = {f"stage {i}": replace(after, latency_ms=value, macs=10**18) for i in range(9)}
    report = replace(REPORT, before=before, after=after, stages=stages, groups=groups, slack={"macs": value})
    assert max(map(len, str(report).splitlines())) <= 80
    Page(page(report, tmp_path))


@pytest.mark.parametrize("width", [20, 80, 200])
def test_rich_console_shows_it_within_its_width(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", record=True)
    console.print(REPORT)
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= min(width, 80)


def test_markup_in_a_name_is_text() -> None:
    assert "[bold]conv[/]" in str(named("[bold]conv[/]"))
