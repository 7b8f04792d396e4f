"""Milliseconds per layer, with a clock that the test turns; no wall clock is read."""

import numpy as np
import pytest
import torch
from cases import named

import mipp
from mipp.data.calibration import as_call
from mipp.plan.latency import TIMERS
from mipp.report import layer_times as timing

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def clock(monkeypatch):
    """Each op takes a second, whatever it is."""
    now, run = [0.0], timing.execute

    def execute(program, env, bound, span):
        run(program, env, bound, span)
        now[0] += span[1] - span[0]

    monkeypatch.setattr(timing, "execute", execute)
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])


def weighed(model, *_, **__) -> float:
    """Stands in for the latency: a millisecond per parameter."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


@pytest.mark.usefixtures("clock")
def test_a_layer_lasts_until_the_next_one():
    case = named("residual")
    x = case.batches()[0][0]
    graph = mipp.inspect(case.model(), x).graph
    ops, names = sorted({work.op for work in graph.macs}), [op.name for op in graph.program.ops]
    measured = timing.layer_ms(case.model(), as_call(x), ops, names)
    assert measured == pytest.approx(1e3 * np.diff([0, *ops[1:], len(names)]))
    assert timing.layer_ms(case.model(), as_call(x), ops, names[:-1]) is None


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("budget", [mipp.Budget(latency_ms=0.5), mipp.Budget(latency_ms=0.5, round_to=2, min_keep=2)])
def test_the_table_is_right_where_it_was_measured(monkeypatch, budget):
    monkeypatch.setitem(TIMERS, "torch", weighed)
    case = named("residual")
    model, x = case.model(), case.batches()[0][0]
    graph = mipp.inspect(model, x).graph
    times = timing.layer_times(model, graph, as_call(x), budget)
    assert times.ms.sum(0)[-1] == pytest.approx(weighed(model))
    assert (np.diff(times.ms, axis=1) >= 0).all()
    assert (np.diff(times.macs, axis=1) >= 0).all()


@pytest.mark.usefixtures("clock")
def test_prune_meets_a_latency_by_the_table_and_the_whole_network(monkeypatch):
    monkeypatch.setitem(TIMERS, "torch", weighed)
    case = named("residual")
    dense = weighed(case.model())
    results = mipp.frontier(
        case.model(), case.batches(), [mipp.Budget(latency_ms=s) for s in (0.8, 0.6)], progress=False
    )
    for share, result in zip((0.8, 0.6), results, strict=True):
        assert weighed(mipp.apply(result.plan, case.model())) <= share * dense


@pytest.mark.usefixtures("clock")
def test_an_impossible_latency_is_refused_before_selection(monkeypatch):
    monkeypatch.setitem(TIMERS, "torch", weighed)
    monkeypatch.setattr("mipp.methods.mipp.carried.site_statistics", pytest.fail)
    case = named("residual")
    with pytest.raises(mipp.InfeasibleBudgetError, match="raise latency_ms"):
        mipp.prune(case.model(), case.batches(), mipp.Budget(latency_ms=1e-6), progress=False)


def test_a_model_that_cannot_be_run_op_by_op_is_one_layer(monkeypatch):
    monkeypatch.setitem(TIMERS, "torch", weighed)
    monkeypatch.setattr(timing, "layer_ms", lambda *_: None)
    model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    graph = mipp.inspect(model, torch.zeros(1, 4)).graph
    times = timing.layer_times(model, graph, as_call(torch.zeros(1, 4)), mipp.Budget(latency_ms=0.5))
    assert times.ms[0, -1] == weighed(model)
    assert times.ms.shape == (1, timing.SIZES + 1)
