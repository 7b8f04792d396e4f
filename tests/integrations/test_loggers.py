"""The numbers of a report reach the trackers of experiments by the function that each has."""

import dataclasses
import re

import pytest
from reports import REPORT

import mipp


class TensorBoard:
    def __init__(self):
        self.seen = {}

    def add_scalar(self, name, value, step):
        self.seen[name] = (value, step)


class MLflow:
    def log_metrics(self, numbers, step):
        self.seen = {name: (value, step) for name, value in numbers.items()}


class Trackio:
    def log(self, numbers, step):
        self.seen = {name: (value, step) for name, value in numbers.items()}


@pytest.mark.parametrize("kind", [TensorBoard, MLflow, Trackio])
def test_every_measure_of_every_stage_is_logged(kind):
    writer = kind()
    mipp.log_report(REPORT, writer, step=3)
    assert writer.seen["pruned/macs"] == (REPORT.after.macs, 3)
    assert writer.seen["fine-tuned/accuracy"] == (0.9905, 3)
    assert writer.seen["kept/conv1"] == (4, 3)
    assert writer.seen["information/conv1"] == (pytest.approx(0.95), 3)
    assert "information/fc1" not in writer.seen


def test_names_are_those_that_mlflow_takes():
    metrics = {"accuracy %": 1.0, "accuracy (": 2.0, "top/5": 3.0, "größe": 4.0, "x" * 300: 5.0}
    report = dataclasses.replace(REPORT, before=dataclasses.replace(REPORT.before, metrics=metrics))
    writer = MLflow()
    mipp.log_report(report, writer)
    assert all(re.fullmatch(r"[\w.\- :]+/[\w.\- :]+", name) and len(name) <= 250 for name in writer.seen)
    values = [value for name, (value, _) in writer.seen.items() if name.startswith("dense/")]
    assert set(metrics.values()) <= set(values)


def test_what_cannot_log_is_refused():
    with pytest.raises(mipp.MippError, match="add_scalar"):
        mipp.log_report(REPORT, object())
