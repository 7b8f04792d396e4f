"""Options of the command that are lists."""

import pytest

import mipp
from mipp.cli.arguments import budgets

pytestmark = pytest.mark.usefixtures("quick")


def test_budgets_are_read_as_the_options_of_the_same_names():
    found = budgets("latency_ms=12.5:min_keep=0,macs=0.5")
    assert found == [mipp.Budget(latency_ms=12.5, min_keep=0), mipp.Budget(macs=0.5)]
