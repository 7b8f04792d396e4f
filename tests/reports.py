"""Reports that the tests of the report render."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import strategies as st

from mipp.report import FrozenLine, GroupLine, Measures, Report

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


def names() -> st.SearchStrategy[str]:
    return st.one_of(st.text(max_size=120), st.text("ab.<&\"'[/]漢\u0301\u202e\x1b\n", max_size=200))


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
