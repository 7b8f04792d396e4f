"""Multilayer perceptrons of one shape, trained side by side: one batched product per layer."""

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mipp.errors import MippError, quote


def check_hidden(settings: object, hidden: object) -> None:
    """Refuses what are no numbers of hidden units.

    Raises:
        MippError: They are not.
    """
    fine = isinstance(hidden, tuple | list) and all(isinstance(n, Integral) and int(n) >= 1 for n in hidden)
    if not (fine and hidden):
        raise MippError(
            f"{type(settings).__name__}(hidden={quote(hidden)}): expected the hidden units of each layer, such as "
            "(256, 256)."
        )


class Perceptrons:
    """Members with ReLU between their layers, each fitted by Adam to its own batches.

    Args:
        members: How many.
        sizes: Inputs, hidden units, and outputs.
        generator: Draws the first weights (He et al. 2015); those of the last layer are zero, so that all start by
            predicting the mean.
        device: Where they live.
        learning_rate: Of Adam.
    """

    def __init__(
        self,
        members: int,
        sizes: Sequence[int],
        generator: torch.Generator,
        device: torch.device | None = None,
        learning_rate: float = 1e-3,
    ) -> None:
        self._learning_rate = learning_rate
        self._parameters: list[Tensor] = []
        for inputs, outputs in pairwise(sizes):
            weight = torch.randn(members, inputs, outputs, generator=generator) * (2 / inputs) ** 0.5
            if len(self._parameters) == 2 * (len(sizes) - 2):
                weight.zero_()
            for start in (weight, torch.zeros(members, 1, outputs)):
                self._parameters.append(start.to(device).requires_grad_())
        self._adam = torch.optim.Adam(self._parameters, lr=learning_rate, fused=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs, shape [members, rows, outputs], for inputs of shape [members, rows, inputs]."""
        layers = list(zip(self._parameters[::2], self._parameters[1::2], strict=True))
        for weight, bias in layers[:-1]:
            x = torch.baddbmm(bias, x, weight).relu_()
        return torch.baddbmm(layers[-1][1], x, layers[-1][0])

    def step(self, x: Tensor, y: Tensor, rate: float = 1.0) -> None:
        """One step of Adam for every member, of `rate` times the learning rate; y as in `surprise`, by member."""
        self._adam.param_groups[0]["lr"] = rate * self._learning_rate
        with torch.enable_grad():
            loss = surprise(self(x), y).mean(1).sum()
            gradients = torch.autograd.grad(loss, self._parameters)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()

    def state(self) -> dict[str, Any]:
        """Weights and the optimiser's moments, as they are now."""
        moments = [{k: v.clone() for k, v in self._adam.state[p].items()} for p in self._parameters]
        return {"weights": [p.detach().clone() for p in self._parameters], "moments": moments}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        for parameter, weight, moments in zip(self._parameters, state["weights"], state["moments"], strict=True):
            parameter.detach().copy_(weight)
            self._adam.state[parameter] = {k: v.clone() for k, v in moments.items()}


def surprise(outputs: Tensor, y: Tensor) -> Tensor:
    """-log q(y | outputs) of every row in nats, up to a constant that depends on y only.

    q is Gaussian of unit variance about the outputs, or for integers y the softmax of the outputs.

    Args:
        outputs: Shape [..., rows, outputs].
        y: Real targets of the same shape, or classes of shape [..., rows].

    Returns:
        Shape [..., rows].
    """
    if y.is_floating_point():
        return 0.5 * (outputs - y).square().sum(-1)
    return F.cross_entropy(outputs.movedim(-1, 1), y.expand(outputs.shape[:-1]), reduction="none")
