"""The rows of a summary: metrics first, then sizes, and what was not measured is absent."""

from dataclasses import replace

from reports import REPORT

from mipp.report import figures, summary


def test_metrics_come_first_and_change_by_a_difference():
    rows = summary.rows(REPORT)
    assert [row.is_metric for row in rows] == sorted((row.is_metric for row in rows), reverse=True)
    (macs,) = [row for row in rows if row.key == "macs"]
    assert macs.values[:2] == (REPORT.before.macs, REPORT.after.macs)
    assert macs.ratio == REPORT.after.macs / REPORT.before.macs
    assert all(row.ratio is None for row in rows if row.is_metric)


def test_a_size_that_nobody_measured_has_no_row():
    before, after = (replace(m, latency_ms=None) for m in (REPORT.before, REPORT.after))
    stages = {name: replace(m, latency_ms=None) for name, m in REPORT.stages.items()}
    keys = [row.key for row in summary.rows(replace(REPORT, before=before, after=after, stages=stages))]
    assert "latency_ms" not in keys


def test_a_metric_of_one_model_is_absent_in_the_others():
    after = replace(REPORT.after, metrics={**REPORT.after.metrics, "new": 1.0})
    (row,) = [row for row in summary.rows(replace(REPORT, after=after)) if row.key == "new"]
    assert row.cells[:2] == (figures.ABSENT, "1.000")


def test_layers_frozen_for_one_reason_stand_together():
    line = REPORT.frozen[0]
    found = summary.group_by_reason((line, replace(line, name="other")))
    assert [len(lines) for places in found.values() for lines in places.values()] == [2]
