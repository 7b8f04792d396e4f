"""Sizes in doubt stand or fall with those of their groups and of their lines."""

from mipp.graph.axes import Reason
from mipp.graph.nodes import Doubt, Size
from mipp.surgery.doubts import by_group, cluster, company


def doubt(number: int, line: str, *groups: str) -> Doubt:
    return Doubt(number, "", 8, Size(0, dict.fromkeys(groups, 1)), Reason("view", "view", line))


FIRST, SECOND, THIRD, APART = doubt(0, "1", "a"), doubt(1, "2", "a", "b"), doubt(2, "1", "c"), doubt(3, "3", "d")


def test_doubts_of_one_group_or_one_line_are_settled_together():
    assert [{d.number for d in found} for found in cluster([FIRST, SECOND, APART, THIRD])] == [{3}, {0, 1, 2}]


def test_doubts_are_taken_apart_by_group():
    assert [[d.number for d in part] for part in by_group([FIRST, SECOND, THIRD])] == [[0, 1], [1], [2]]


def test_a_group_is_tied_to_all_others_to_the_sound_ones_or_to_one_more():
    assert list(company(["a", "b", "c"], {"b", "c"})) == [["a", "b", "c"], ["a"], ["a", "b"], ["a", "c"]]
