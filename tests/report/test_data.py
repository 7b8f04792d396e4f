"""A report survives JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from reports import REPORT

from mipp.errors import MippError
from mipp.report import Report


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
