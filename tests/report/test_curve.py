"""The curve of a report: quality against size, from the smallest network to the dense one."""

from dataclasses import replace

from reports import REPORT

from mipp.report.curve import Curve, CurvePoint, curve_of


def test_a_report_without_a_frontier_has_no_curve():
    assert curve_of(replace(REPORT, frontier=())) is None


def test_heights_are_between_the_bounds_even_where_all_are_equal():
    points = tuple(CurvePoint(size, quality, ("", ""), chosen=False) for size, quality in ((0.1, 80.0), (1.0, 90.0)))
    curve = Curve("MACs", "accuracy", points)
    assert [curve.height(point.quality) for point in points] == [0.0, 1.0]
    flat = Curve("MACs", "accuracy", (points[0], points[0]))
    assert flat.height(80.0) == 0.5


def test_the_dense_network_is_told_apart_even_where_it_is_not_the_largest():
    measures = replace(REPORT.before, macs=2 * REPORT.before.macs)
    report = replace(REPORT, budget={"macs": 0.5}, frontier=(replace(REPORT.point, measures=measures),))
    assert [point.dense for point in curve_of(report).points] == [True, False]
