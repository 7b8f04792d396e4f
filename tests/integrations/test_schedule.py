"""Schedules: when a round is due, and what it is to reach."""

import pytest

import mipp


def test_rounds_are_due_in_turn():
    schedule = mipp.Schedule(macs=[0.9, 0.75, 0.5], every=10, first=4)
    due, done = [], 0
    for step in range(1, 60):
        if schedule.is_due(done, step):
            due.append(step)
            done += 1
    assert due == [4, 14, 24]


def test_fractions_are_of_the_first_model_and_amounts_absolute():
    schedule = mipp.Schedule(macs=[0.8, 0.4], params=[900, 300], every=1, round_to=4)
    first, second = schedule.budget(0, {}), schedule.budget(1, {"macs": 0.8, "params": 0.7})
    assert (first.macs, first.params, first.round_to) == (0.8, 900, 4)
    assert (second.macs, second.params, second.round_to) == (pytest.approx(0.5), 300, 4)
    assert schedule.budget(0, {"macs": 0.6}).macs == 1.0  # nothing is left to do


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"macs": [0.9], "every": 0}, "whole numbers"),
        ({"macs": [0.9], "every": 5, "unit": "batches"}, "'steps' or 'epochs'"),
        ({"macs": 0.9, "every": 5}, "one value for each round"),
        ({"macs": [0.9, 0.5], "params": [0.9], "every": 5}, "one value for each round"),
        ({"mac": [0.9], "every": 5}, "has no argument mac"),
        ({"macs": [1.5], "every": 5}, "in \\(0, 1\\]"),
    ],
)
def test_what_makes_no_schedule_is_refused(given, said):
    with pytest.raises(mipp.MippError, match=said):
        mipp.Schedule(**given)
