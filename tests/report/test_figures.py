"""Numbers and names as people read them."""

import math

import pytest
from rich.cells import cell_len

from mipp.report import figures

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
