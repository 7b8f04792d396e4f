"""SNIP against finite differences."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from tasks import SIZES, chain, gated_outputs, gates_by_difference, mean_loss, node_parts, task, weights_of

import mipp
from mipp.methods import (
    SNIP,
    IterSNIP,
)


def test_snip_as_a_gate_is_the_derivative_by_a_factor_on_the_activation():
    given = task(chain())

    def loss(gates):
        parts = [F.cross_entropy(gated_outputs(given.model, gates, b.call.args[0]), b.labels) for b in given.batches]
        return torch.stack(parts).mean()

    expected = gates_by_difference(loss, SIZES)
    found = SNIP(structure="gate").rank(given)
    for name in SIZES:
        torch.testing.assert_close(found[name], expected[name].abs(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("structure", "order"), [("l1", 1), ("l2", 2)])
def test_snip_adds_up_sensitivities_of_all_weights_of_a_node(structure, order):
    given = task(chain())
    weights = weights_of(given.model)
    sensitivity = {}
    for name, weight in weights.items():
        sensitivity[name] = torch.zeros_like(weight)
        for place in itertools.product(*map(range, weight.shape)):
            losses = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                changed = {**weights, name: weight.clone()}
                changed[name][place] *= factor
                losses.append(float(mean_loss(given, changed)))
            sensitivity[name][place] = (losses[0] - losses[1]) / 2e-5
    found = SNIP(structure=structure).rank(given)
    for name, size in SIZES.items():
        expected = [float(node_parts(given, sensitivity, name, i).norm(p=order)) for i in range(size)]
        torch.testing.assert_close(found[name], torch.tensor(expected).double(), rtol=1e-5, atol=1e-8)


def test_one_round_of_iterative_snip_is_snip_and_more_rounds_are_not():
    given = task(chain())
    budget = mipp.Budget(nodes=0.4)
    once = SNIP().plan(given, budget).kept
    assert IterSNIP(rounds=1).plan(given, budget).kept == once
    assert any(IterSNIP(rounds=r).plan(given, budget).kept != once for r in (3, 5, 8))
