"""Kinds of budgets: each is a field of `Budget` and of the measures."""

from dataclasses import fields

from mipp.plan.budget import Budget
from mipp.plan.registry import CONSTRAINTS
from mipp.report.data import Measures


def test_every_kind_can_be_limited_and_is_reported():
    assert CONSTRAINTS.keys() <= {field.name for field in fields(Budget)}
    assert CONSTRAINTS.keys() <= {field.name for field in fields(Measures)}


def test_only_milliseconds_are_no_whole_numbers():
    assert [name for name, constraint in CONSTRAINTS.items() if not constraint.is_whole] == ["latency_ms"]
