"""The report: data that survives JSON, text that fits a terminal, a page that no name can break."""

import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from mipp.errors import MippError
from mipp.report import FrozenLine, GroupLine, Measures, Report, figures

SCRIPT = "<script>alert(1)</script>"

REPORT = Report(
    model="LeNet",
    method="MIPP(estimator='gaussian')",
    call="mipp.prune(model, batches, budget=mipp.Budget(macs=0.5))",
    budget={"macs": 0.5, "params": None, "min_keep": 1},
    before=Measures(params=61_706, macs=416_520, nodes=226, latency_ms=1.25, metrics={"accuracy": 0.9912}),
    after=Measures(params=16_000, macs=208_000, nodes=74, latency_ms=0.75, metrics={"accuracy": 0.975}),
    stages={"fine-tuned": Measures(16_000, 208_000, 74, 0.75, {"accuracy": 0.9905})},
    groups=(
        GroupLine("conv1", 6, 4, nats=0.5, total_nats=10.0, macs_before=117_600, macs_after=78_400),
        GroupLine("fc1", 120, 31, nats=None, total_nats=None, macs_before=48_000, macs_after=8_000),
    ),
    frozen=(
        FrozenLine("fc3", 10, "the model returns it", "aten.addmm.default", "lenet.py:30"),
        FrozenLine("gate.0", 8, "the op has no rule", "aten.fft_fft.default", "lenet.py:12"),
        FrozenLine("gate.1", 8, "the op has no rule", "aten.fft_fft.default", "lenet.py:12"),
    ),
    collapsed=("aux",),
    notes=("the proof run agreed",),
    slack={"macs": 0.5 - 208_000 / 416_520},
    seconds={"trace": 1.0, "surgery": 0.25},
    versions={"mipp": "0.1.0", "torch": "2.13.0"},
)

NOTHING = Measures(params=0, macs=0, nodes=0, latency_ms=None, metrics={})
EMPTY = Report("M", "Random()", "", {}, NOTHING, NOTHING, {}, (), (), (), (), {}, {}, {})

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


def named(name: str) -> Report:
    """A report in which every text is the given one."""
    measures = replace(REPORT.after, metrics={name: 0.5})
    return replace(
        REPORT,
        model=name,
        method=name,
        call=name,
        budget={name: name, "widths": {name: 3}},
        before=measures,
        after=measures,
        stages={name: measures, name + "2": measures},
        groups=tuple(replace(line, name=f"{prefix}{name}") for line in REPORT.groups for prefix in ("", "a.b.c.")),
        frozen=tuple(replace(line, name=name, reason=name, op=name, source=name) for line in REPORT.frozen),
        collapsed=(name,),
        notes=(name,),
        slack={name: 0.1},
        seconds={name: 1.0},
        versions={name: name},
    )


def page(report: Report, folder: Path) -> str:
    report.to_html(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects the elements, attributes and text of a page, and refuses elements that are not closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"meta", "link", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# --- data


def test_json_round_trip() -> None:
    stored = json.loads(json.dumps(REPORT.to_dict(), allow_nan=False))
    assert Report.from_dict(stored) == REPORT
    assert stored["groups"][1]["nats"] is None
    assert stored["before"]["macs"] == 416_520


def test_unknown_fields_are_ignored() -> None:
    assert Report.from_dict({**REPORT.to_dict(), "colour": "red"}) == REPORT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(value: float) -> None:
    after = replace(REPORT.after, latency_ms=value, metrics={"loss": value})
    groups = (replace(REPORT.groups[0], nats=value),)
    stored = json.loads(json.dumps(replace(REPORT, after=after, groups=groups).to_dict(), allow_nan=False))
    report = Report.from_dict(stored)
    assert report.after.latency_ms is None
    assert math.isnan(report.after.metrics["loss"])
    assert report.groups[0].nats is None
    assert report.to_dict() == stored


def test_numpy_numbers_and_tuples_become_json() -> None:
    np = pytest.importorskip("numpy")
    budget = {"nodes": np.int64(3), "macs": np.float32(0.5), "names": ("a", Path("b"))}
    assert replace(REPORT, budget=budget).to_dict()["budget"] == {"nodes": 3, "macs": 0.5, "names": ["a", "b"]}


@pytest.mark.parametrize("field", ["model", "before", "groups", "versions"])
def test_an_absent_field_is_named(field: str) -> None:
    data = REPORT.to_dict()
    del data[field]
    with pytest.raises(MippError, match=f"lacks the field '{field}'"):
        Report.from_dict(data)


@pytest.mark.parametrize("wrong", [[], None, {**REPORT.to_dict(), "before": 3}, {**REPORT.to_dict(), "groups": [1]}])
def test_what_is_no_report_is_refused(wrong: object) -> None:
    with pytest.raises(MippError, match=r"expected what Report\.to_dict\(\) returns"):
        Report.from_dict(wrong)


def test_with_stage_adds_or_replaces_and_leaves_the_report_alone() -> None:
    stage = replace(REPORT.after, params=1)
    assert list(REPORT.with_stage("quantised", stage).stages) == ["fine-tuned", "quantised"]
    assert REPORT.with_stage("fine-tuned", stage).stages == {"fine-tuned": stage}
    assert REPORT.stages["fine-tuned"].params == 16_000


def test_information_kept() -> None:
    line = REPORT.groups[0]
    assert line.information_kept == pytest.approx(0.95)
    for nats, total in ((None, 1.0), (1.0, None), (0.0, 0.0), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        assert replace(line, nats=nats, total_nats=total).information_kept is None


# --- text


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


def names() -> st.SearchStrategy[str]:
    return st.one_of(st.text(max_size=120), st.text("ab.<&\"'[/]漢\u0301\u202e\x1b\n", max_size=200))


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


# --- numbers


COUNTS = {0: "0", 9_999: "9,999", 10_000: "10.00 k", 99_999: "100.0 k", 999_999: "1.000 M", 126_485_888: "126.5 M"}


@pytest.mark.parametrize(("number", "written"), COUNTS.items())
def test_counts(number: int, written: str) -> None:
    assert figures.count(number) == written


DIFFERENCES = {(0.9176, 0.9352): "−0.0176", (91.2, 93.52): "−2.32", (0.9912, 1.0): "−0.0088", (2e-5, 1e-5): "+1e−05"}


@pytest.mark.parametrize(("pair", "written"), [*DIFFERENCES.items(), ((5e4, 1.0), "+50.00 k"), ((1, math.nan), "–")])
def test_differences(pair: tuple[float, float], written: str) -> None:
    assert figures.difference(*pair) == written


@pytest.mark.parametrize(
    ("name", "width", "written"),
    [
        ("layer1.0.conv1", 20, "layer1.0.conv1"),
        ("bert.encoder.layer.11.attention.self.query", 30, "b.e.l.11.attention.self.query"),
        ("a" * 20 + "b" * 20, 11, "aaaa…bbbbbb"),
        ("漢" * 10, 8, "漢…漢漢"),
    ],
)
def test_long_names_keep_what_tells_them_apart(name: str, width: int, written: str) -> None:
    assert figures.shorten(name, width) == written
    assert cell_len(figures.shorten(name, width)) <= width


# --- page


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


# --- file


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
        with pytest.raises(OSError, match="disk full"):
            REPORT.to_html(path)
    assert path.read_text() == "old"
    REPORT.to_html(str(path))
    assert path.read_text(encoding="utf-8").lstrip().startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
