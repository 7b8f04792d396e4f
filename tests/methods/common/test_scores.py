"""Scores in rounds, towards a latency."""

import dataclasses
import itertools

import numpy as np
import torch
from tasks import chain, task

import mipp
from mipp.methods import (
    L1,
)
from mipp.methods.common.scores import select_in_rounds
from mipp.plan.cost import cost_of
from mipp.plan.latency import LayerTimes


def test_a_network_shrinks_from_round_to_round_towards_a_latency():
    """A MAC takes a millisecond: the rounds on the way are priced by the table of layers."""
    given, seen = task(chain()), []
    ops = [work.op for work in given.graph.macs]
    grid = np.tile([0.0, 1e3], (len(ops), 1))
    cost = cost_of(given.graph, LayerTimes(tuple((op,) for op in ops), grid, grid))

    def rank(_, kept):
        seen.append(sum(map(len, kept.values())))
        return {name: torch.arange(group.size).double() for name, group in given.graph.groups.items()}

    timed = dataclasses.replace(given, cost=cost, measure=cost.estimate)
    found = select_in_rounds(L1(), timed, mipp.Budget(latency_ms=0.3), 4, rank)
    assert all(a > b for a, b in itertools.pairwise([*seen, sum(map(len, found.values()))]))
