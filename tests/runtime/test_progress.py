"""Bars for people on a terminal, and lines for everybody else."""

import io
import time

import pytest
import torch
from rich.console import Console
from torch import nn

import mipp
from mipp.runtime.progress import Bars, seconds_left


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    """The text that a person on a terminal would see."""
    file = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=file, force_terminal=True, width=80))
    return file


def prune(**options) -> mipp.Result:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return mipp.prune(model, [torch.randn(16, 4)] * 3, mipp.Budget(nodes=0.5), recover="distill", **options)


def test_every_phase_has_a_bar(terminal):
    prune()
    for phase in ("reading", "graph", "statistics", "compensation", "distillation", "evaluation"):
        assert phase in terminal.getvalue()


def test_without_a_terminal_or_when_not_wanted_nothing_is_shown(terminal, capfd):
    prune(progress=False)
    assert terminal.getvalue() == ""
    bars = Bars(enabled=True)
    bars._shown = False
    assert list(bars([1, 2], "what")) == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_the_time_that_remains_is_shown(terminal):
    bars = Bars(enabled=True)
    for _ in bars(range(5), "what"):
        bars._progress.refresh()
    assert "0:00:0" in terminal.getvalue()


def test_bars_inside_bars_and_after_an_error(terminal):
    def interrupted(bars):
        for _ in bars([1, 2], "outer"):
            for _ in bars([1, 2], "inner"):
                raise KeyboardInterrupt

    with Bars(enabled=True) as bars, pytest.raises(KeyboardInterrupt):
        interrupted(bars)
    assert not bars._progress.live.is_started
    assert "outer" in terminal.getvalue()
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is back


def test_without_a_terminal_a_line_says_now_and_then_how_far_it_is(monkeypatch):
    """Also while one step takes long, and no more after an error."""
    file = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=file, force_terminal=False))
    monkeypatch.setattr("mipp.runtime.progress.SECONDS", 0.01)

    def fail(bars):
        for step in bars([0, 1, 2], "refit"):
            if step == 1:
                wait_for(lambda: "mipp: refit 1 of 3, about 0 s left; 0 s so far" in file.getvalue())
                raise KeyError

    with Bars(enabled=True) as bars, pytest.raises(KeyError):
        fail(bars)
    written = file.getvalue()
    time.sleep(0.05)
    assert file.getvalue() == written


@pytest.mark.parametrize("costs", [[1] * 40, [n * n for n in range(1, 30)], [n * n for n in range(30, 0, -1)]])
def test_after_the_first_tenth_what_remains_is_right_within_a_factor_of_two(costs):
    """On a made-up clock: steps take from seven tenths to fourteen tenths of what they cost."""
    took = [cost * (0.7 + 0.1 * (place * 5 % 8)) for place, cost in enumerate(costs)]
    for done in range(1, len(costs)):
        left = seconds_left(sum(costs[:done]), sum(costs), sum(took[:done]))
        if sum(costs[:done]) < sum(costs) / 10:
            assert left is None
        else:
            assert 0.5 <= left / sum(took[done:]) <= 2


def test_steps_of_different_costs_are_counted_by_these(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=file, force_terminal=False))
    monkeypatch.setattr("mipp.runtime.progress.SECONDS", 0.01)
    with Bars(enabled=True) as bars:
        for step in bars(range(2), "refit", costs=[99, 1]):
            if step == 1:
                wait_for(lambda: "refit 1 of 2, about 0 s left" in file.getvalue())


def wait_for(condition, seconds=10.0):
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.005)
