"""The least time of several calls."""

from mipp.runtime import timing
from mipp.runtime.timing import least_seconds


def test_the_least_of_all_calls_counts(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    assert least_seconds(lambda: calls.append(1), repeats=3) == 1.0
    assert len(calls) == 3
