"""Costs agree with an independent count of the cut model."""

import numpy as np
import pytest
from cases import PRUNABLE, inspected
from costs import cut_to, few, timed
from hypothesis import given
from hypothesis import strategies as st

from mipp.plan.cost import cost_of

pytestmark = pytest.mark.usefixtures("quick")


prunable = pytest.mark.parametrize("case", PRUNABLE, ids=str)


@prunable
@few(3)
@given(data=st.data())
def test_costs_agree_with_an_independent_count_of_the_cut_model(case, data):
    _, found = inspected(case)
    widths = {n: data.draw(st.integers(1, g.size), label=n) for n, g in found.groups.items()}
    expected = cut_to(case, widths)
    cost = cost_of(found.graph)
    at = cost.widths(widths)
    assert cost.quantities["params"](at) == expected["params"]
    assert cost.quantities["nodes"](at) == expected["nodes"]
    if case.counted:
        assert cost.quantities["macs"](at) == expected["macs"]


@prunable
def test_the_marginal_cost_of_a_node_is_the_difference(case):
    cost = cost_of(inspected(case)[1].graph)
    for name, quantity in cost.quantities.items():
        base = cost.sizes - 1
        slopes = quantity.per_group(base)
        for i in range(len(base)):
            step = np.eye(len(base))[i] * 1e-6  # a group may meet itself, so only the derivative is the same
            below, above = (
                (quantity(base) - quantity(base - step)) / 1e-6,
                (quantity(base + step) - quantity(base)) / 1e-6,
            )
            assert below * (1 - 1e-4) - 1e-6 <= slopes[i] <= above * (1 + 1e-4) + 1e-6, name  # a peak has a kink


@pytest.mark.parametrize("name", ["linear chain", "residual", "cifar resnet"])
def test_latency_is_the_sum_over_layers_and_its_slope_the_difference(name):
    cost = timed(name)
    latency, macs = cost.quantities["latency_ms"], cost.quantities["macs"]
    layers = len(latency.times.layers)
    for widths in (cost.sizes, np.maximum(cost.sizes // 2, 1)):
        assert latency(widths) == pytest.approx(1e-3 * layers + 1e-4 * macs(widths), rel=1e-9)
        assert latency.per_group(widths) == pytest.approx(1e-4 * macs.per_group(widths), rel=1e-6)
