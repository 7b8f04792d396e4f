"""Data of others are of the declared type, or refused in one form."""

import math
from dataclasses import dataclass, field
from typing import Literal

import pytest

from mipp.runtime.typed import FormError, as_type, parse_json


@dataclass(frozen=True)
class Point:
    name: str
    places: tuple[int, ...]
    weight: float | None = None
    kind: Literal["near", "far"] = "near"
    more: dict[str, tuple[int, float]] = field(default_factory=dict)
    shown: object = None


def test_data_of_the_type_come_back_as_the_type():
    data = {"name": "a", "places": [1, 2], "weight": 3, "kind": "far", "more": {"b": [1, 0.5]}, "other": 3}
    assert as_type(Point, data) == Point("a", (1, 2), 3.0, "far", {"b": (1, 0.5)})
    assert as_type(Point, {"name": "a", "places": [], "shown": {"x": [1, None]}}).shown == {"x": [1, None]}
    assert math.isnan(as_type(float, None))
    assert as_type(int, 3.0) == 3


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": 3}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"places": 3}, "places"),
        ({"places": [1, True]}, r"places\[1\]"),
        ({"places": [1, 2**63]}, "places"),
        ({"places": [math.nan]}, r"places\[0\]"),
        ({"weight": "x"}, "weight"),
        ({"weight": 10**400}, "weight"),
        ({"kind": "middle"}, "kind"),
        ({"more": {"b": [1]}}, r"more\.b"),
        ({"more": {"b": [math.inf, 1]}}, r"more\.b\[0\]"),
        ({"shown": {"x": 10**5000}}, "shown"),
        ({"shown": object()}, "shown"),
    ],
)
def test_the_part_of_another_form_is_named(change, place):
    with pytest.raises(FormError, match=place) as refusal:
        as_type(Point, {"name": "a", "places": [1], **change})
    assert len(str(refusal.value)) < 400


def test_what_only_is_shown_is_not_deep():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(FormError, match="deeper than"):
        as_type(object, deep, "notes")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "1" * 21, "{", b"\xff", ""])
def test_what_is_no_json_is_refused_in_the_same_form(text):
    with pytest.raises(FormError) as refusal:
        parse_json(text)
    assert len(str(refusal.value)) < 400
