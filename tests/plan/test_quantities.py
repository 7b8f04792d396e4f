"""Quantities are functions of widths: sums of products, and peaks of sums; slopes are differences."""

import numpy as np
import pytest

from mipp.graph.nodes import Activation, Size, Work
from mipp.plan.quantities import Peak, Sum

GROUPS = ("a", "b")
WORKS = (
    Work(0, 3, (Size(0, {"a": 1}), Size(2, {"b": 2}))),
    Work(1, 5, (Size(0, {"b": 1}),)),
)


def test_a_sum_is_that_of_its_products():
    a, b = 4.0, 7.0
    assert Sum.of(WORKS, GROUPS, 0.5)(np.array([a, b])) == 0.5 * (3 * a * (2 + 2 * b) + 5 * b)


@pytest.mark.parametrize("merged", [True, False])
def test_the_saving_of_a_node_is_the_difference_it_makes(merged):
    total, widths = Sum.of(WORKS, GROUPS, 1.0, merged=merged), np.array([4.0, 7.0])
    fewer = [total(widths) - total(widths - step) for step in np.eye(2)]
    assert np.allclose(total.per_group(widths), fewer)


def test_a_peak_is_the_largest_sum_at_any_time():
    spans = [(0, 1), (1, 2)]
    peak = Peak.of([Activation(w, *span) for w, span in zip(WORKS, spans, strict=True)], GROUPS, 1.0)
    widths = np.array([4.0, 7.0])
    assert peak(widths) == Sum.of(WORKS, GROUPS, 1.0)(widths)  # both are held at time 1
    apart = Peak.of([Activation(w, t, t) for t, w in enumerate(WORKS)], GROUPS, 1.0)
    assert apart(widths) == max(Sum.of([w], GROUPS, 1.0)(widths) for w in WORKS)
