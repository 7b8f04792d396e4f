"""Taylor scores against finite differences."""

import copy

import torch
import torch.nn.functional as F
from cases import named
from tasks import SIZES, chain, gated_outputs, gates_by_difference, task
from torch.func import functional_call

from mipp.methods import (
    Taylor,
)


def test_taylor_is_the_squared_derivative_by_a_factor_on_the_activation_averaged_over_batches():
    given = task(chain())
    expected = {name: torch.zeros(size, dtype=torch.float64) for name, size in SIZES.items()}
    for b in given.batches:
        slopes = gates_by_difference(
            lambda gates, b=b: F.cross_entropy(gated_outputs(given.model, gates, b.call.args[0]), b.labels), SIZES
        )
        for name in SIZES:
            expected[name] += slopes[name].square()
    found = Taylor().rank(given)
    for name in SIZES:
        torch.testing.assert_close(
            found[name] / found[name].sum(), expected[name] / expected[name].sum(), rtol=1e-5, atol=1e-9
        )


def test_taylor_sees_through_a_batch_norm():
    """A norm between a node and its reader belongs to the node: the gate stands behind the norm, not before."""
    model = named("conv bn relu chain").model()
    given = task(model, shape=(3, 6, 6))
    given = copy.copy(given)
    object.__setattr__(given, "loss_fn", lambda output, labels: F.cross_entropy(output.mean((2, 3)), labels % 2))
    name, group = next(iter(given.graph.groups.items()))
    reader = next(s for s in group.slices if s.reads)
    weight = dict(model.named_parameters())[reader.tensor]

    def loss(gates, batch):
        with torch.no_grad():
            scaled = weight * gates[name].reshape(1, -1, 1, 1)
            return given.loss_fn(functional_call(model, {reader.tensor: scaled}, batch.call.args), batch.labels)

    slopes = [gates_by_difference(lambda g, b=b: loss(g, b), {name: group.size})[name] for b in given.batches]
    expected = sum(b.samples * s.square() for b, s in zip(given.batches, slopes, strict=True))
    torch.testing.assert_close(Taylor().rank(given)[name], expected, rtol=1e-5, atol=1e-9)
