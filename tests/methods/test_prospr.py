"""ProsPr against finite differences through the training."""

import torch
import torch.nn.functional as F
from tasks import SIZES, chain, gates_by_difference, task, weights_of
from torch.func import functional_call

from mipp.methods import (
    ProsPr,
)


def test_prospr_is_the_derivative_of_the_loss_after_training_by_the_gates():
    given = task(chain(), batches=3)
    method = ProsPr(steps=3, learning_rate=0.5)

    def loss(weights, step):
        batch = given.batches[step % 3]
        return F.cross_entropy(functional_call(given.model, weights, batch.call.args), batch.labels)

    def after_training(gates):
        weights = weights_of(given.model)
        for name, gate in gates.items():
            weights[f"{name}.weight"] = weights[f"{name}.weight"] * gate[:, None]
            weights[f"{name}.bias"] = weights[f"{name}.bias"] * gate
        for step in range(3):
            weights = {n: w.detach().requires_grad_() for n, w in weights.items()}
            slopes = torch.autograd.grad(loss(weights, step), list(weights.values()))
            weights = {n: w - 0.5 * s for (n, w), s in zip(weights.items(), slopes, strict=True)}
        return loss(weights, 3).detach()

    expected = gates_by_difference(after_training, SIZES)
    found = method.rank(given)
    for name in SIZES:
        torch.testing.assert_close(found[name], expected[name].abs(), rtol=1e-5, atol=1e-9)
