"""Latency in ONNX Runtime, and budgets that hold there."""

import pytest
import torch
from networks import normal
from torch import nn

import mipp
from mipp.graph.call import Call
from mipp.plan.latency import TIMERS

pytest.importorskip("onnxruntime")

from mipp.export.timing import onnxruntime_ms


def network(width):
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8)
    ).eval()


def test_a_larger_network_takes_longer():
    call = Call((normal(64, 64),))
    assert onnxruntime_ms(network(1024), call, 0.05) > 2 * onnxruntime_ms(network(64), call, 0.05) > 0


def test_budget_and_report_are_of_the_runtime(monkeypatch):
    """A stand-in for the clock, a millisecond per parameter: what is measured is deterministic."""
    taken = []

    def weigh(model, call):
        taken.append(sum(p.numel() for p in model.parameters()))
        return float(taken[-1])

    monkeypatch.setitem(TIMERS, "onnxruntime", weigh)
    model = network(16)
    budget = mipp.Budget(latency_ms=0.5, runtime="onnxruntime")
    result = mipp.prune(model, [normal(64, 64)], budget, progress=False)
    dense = sum(p.numel() for p in model.parameters())
    assert result.report.before.latency_ms == dense
    assert result.report.after.latency_ms == sum(p.numel() for p in result.model.parameters()) <= dense / 2
    assert "runtime='onnxruntime'" in result.report.call
    assert result.plan.budget["runtime"] == "onnxruntime"


def test_budgets_of_several_runtimes_and_unknown_ones_are_refused():
    with pytest.raises(mipp.InfeasibleBudgetError, match="expected one of torch, onnxruntime"):
        mipp.Budget(latency_ms=0.5, runtime="tensorrt")
    budgets = [mipp.Budget(latency_ms=0.5), mipp.Budget(latency_ms=0.5, runtime="onnxruntime")]
    with pytest.raises(mipp.MippError, match="several runtimes"):
        mipp.frontier(network(16), [normal(64, 64)], budgets, progress=False)


def test_the_torch_clock_is_not_asked(monkeypatch):
    monkeypatch.setitem(TIMERS, "torch", lambda *_: pytest.fail("measured in torch"))
    monkeypatch.setitem(TIMERS, "onnxruntime", lambda model, call: float(sum(p.numel() for p in model.parameters())))
    budget = mipp.Budget(macs=0.5, runtime="onnxruntime")
    assert mipp.prune(network(16), [torch.randn(64, 64)], budget, progress=False).report.after.latency_ms > 0
