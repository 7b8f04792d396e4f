"""Milliseconds between two measured sizes lie on a straight line."""

import numpy as np

from mipp.graph.nodes import Size, Work
from mipp.plan.latency import Latency, LayerTimes

WORKS = (Work(0, 10, (Size(0, {"a": 1}),)), Work(3, 1, (Size(8, {}),)))
TIMES = LayerTimes(((0,), (3,)), np.array([[10.0, 40.0], [8.0, 8.0]]), np.array([[1.0, 2.5], [0.5, 0.5]]))


def test_a_network_takes_what_its_layers_take():
    latency = Latency.of(WORKS, ["a"], 1.0, TIMES)
    assert latency(np.array([1.0])) == 1.5
    assert latency(np.array([4.0])) == 3.0
    assert np.isclose(latency(np.array([2.0])), 1 + 1.5 / 3 + 0.5)


def test_a_node_saves_the_slope_from_the_smallest_size():
    latency = Latency.of(WORKS, ["a"], 1.0, TIMES)
    assert np.allclose(latency.per_group(np.array([4.0])), [1.5 / 3])
