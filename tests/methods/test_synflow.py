"""Synaptic flow by hand, and its conservation."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks import task
from torch import nn

import mipp
from mipp.methods import (
    SynFlow,
)
from mipp.methods.common.slices import weights_by_node
from mipp.methods.synflow import flow


def test_synflow_of_two_linear_layers_by_hand():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    first, second = (m.weight.detach().abs() for m in model)
    given = task(model, shape=(3,))
    through = first.sum(1) * second.sum(0)  # from ones through node i to the sum of the outputs
    found = flow(model, given.batches[0])
    torch.testing.assert_close(found["0.weight"].sum(1), through)
    torch.testing.assert_close(found["1.weight"].sum(0), through)
    kept = SynFlow(rounds=1).plan(given, mipp.Budget(widths={"0": 2})).kept["0"]
    assert set(kept) == set(through.topk(2).indices.tolist())


@settings(max_examples=15)
@given(st.integers(0, 2**31 - 1))
def test_synaptic_flow_is_conserved_by_every_hidden_node(seed):
    """The flow in through the weights and the bias equals the flow out (Tanaka et al. 2020, theorem 1)."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double()
    given = task(model, shape=(3, 6, 6), samples=3)
    found = flow(model, given.batches[0])
    for group in given.graph.groups.values():
        flows = [sum(part.sum(1) for part in weights_by_node(group, found, reads=reads)) for reads in (False, True)]
        torch.testing.assert_close(flows[0], flows[1])


def test_iterated_synflow_keeps_every_layer_of_an_untrained_network_alive():
    """One round empties the widest layer; a hundred do not (its average score rises as it shrinks)."""
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    given = task(model)
    budget = mipp.Budget(nodes=6, min_keep=0)
    assert SynFlow(rounds=1).plan(given, budget).collapsed
    assert not SynFlow(rounds=100).plan(given, budget).collapsed
