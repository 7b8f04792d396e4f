"""SOSP against the dense Hessian."""

import itertools

import torch
from tasks import SIZES, chain, mean_loss, task, weights_of
from torch.func import functional_call

import mipp
from mipp.methods import (
    SOSPH,
    SOSPI,
    Task,
)


def dense_second_order(given: Task):
    """Gradient, Hessian and the flat weights, densely."""
    weights = weights_of(given.model)
    flat = torch.cat([w.flatten() for w in weights.values()])

    def loss(vector):
        pieces = vector.split([w.numel() for w in weights.values()])
        return mean_loss(given, {n: p.view_as(w) for (n, w), p in zip(weights.items(), pieces, strict=True)})

    return torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat), flat, weights


def producing(weights, group: str, node: int) -> torch.Tensor:
    """Indicator of the weights that produce one node, flat."""
    marks = {n: torch.zeros_like(w) for n, w in weights.items()}
    marks[f"{group}.weight"][node] = 1
    marks[f"{group}.bias"][node] = 1
    return torch.cat([m.flatten() for m in marks.values()])


def test_sosp_h_against_the_dense_hessian():
    given = task(chain())
    gradient, hessian, flat, weights = dense_second_order(given)
    nodes = {name: [flat * producing(weights, name, i) for i in range(size)] for name, size in SIZES.items()}
    every = sum(itertools.chain(*nodes.values()))
    found = SOSPH().rank(given)
    for name, own in nodes.items():
        expected = torch.stack([(w @ gradient).abs() + 0.5 * (w @ hessian @ every).abs() for w in own])
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-12)


def test_sosp_i_removes_first_what_changes_the_gauss_newton_model_least():
    given = task(chain())
    gradient, _, flat, weights = dense_second_order(given)
    inputs = torch.cat([b.call.args[0] for b in given.batches])

    def outputs(vector):
        pieces = vector.split([w.numel() for w in weights.values()])
        named_ = {n: p.view_as(w) for (n, w), p in zip(weights.items(), pieces, strict=True)}
        return functional_call(given.model, named_, (inputs,))

    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    probabilities = given.model(inputs).softmax(1).detach()
    costs = {}
    for name, size in SIZES.items():
        for node in range(size):
            own = flat * producing(weights, name, node)
            phi = jacobian @ own
            variance = (probabilities * phi.square()).sum(1) - (probabilities * phi).sum(1).square()
            costs[name, node] = float((own @ gradient).abs() + 0.5 * variance.mean())
    first = min(costs, key=costs.get)
    kept = SOSPI().plan(given, mipp.Budget(nodes=10)).kept
    assert [(n, i) for n, size in SIZES.items() for i in range(size) if i not in kept[n]] == [first]
