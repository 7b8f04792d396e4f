"""The latency is measured before and after."""

import pytest
from networks import prune_chain

pytestmark = pytest.mark.usefixtures("quick")


def test_latency_is_measured(monkeypatch):
    monkeypatch.undo()
    result = prune_chain()
    assert result.report.before.latency_ms > 0
    assert result.report.after.latency_ms > 0
