"""Perceptrons trained side by side do what plain modules do one after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mipp.estimators.perceptrons import Perceptrons, surprise


def twin(net: Perceptrons, member: int) -> nn.Sequential:
    """One member as an ordinary module: the slow, readable twin."""
    weights, biases = net._parameters[::2], net._parameters[1::2]
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        with torch.no_grad():
            linear.weight.copy_(weight[member].mT)
            linear.bias.copy_(bias[member, 0])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("classes", [False, True])
def test_every_member_learns_as_it_would_alone(classes):
    g = torch.Generator().manual_seed(0)
    net = Perceptrons(3, (4, 8, 6, 2), g)
    modules = [twin(net, member) for member in range(3)]
    optimisers = [torch.optim.Adam(m.parameters(), lr=1e-3) for m in modules]
    x = torch.randn(5, 3, 16, 4, generator=g)
    y = torch.randint(0, 2, (5, 3, 16), generator=g) if classes else torch.randn(5, 3, 16, 2, generator=g)
    for step in range(5):
        net.step(x[step], y[step])
        for member, (module, optimiser) in enumerate(zip(modules, optimisers, strict=True)):
            out, target = module(x[step, member]), y[step, member]
            loss = F.cross_entropy(out, target) if classes else 0.5 * F.mse_loss(out, target, reduction="sum") / 16
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    expected = torch.stack([module(x[0, member]) for member, module in enumerate(modules)])
    torch.testing.assert_close(net(x[0]), expected, rtol=1e-4, atol=1e-5)


def test_restoring_brings_back_weights_and_optimiser():
    g = torch.Generator().manual_seed(0)
    net = Perceptrons(2, (3, 5, 1), g)
    x, y = torch.randn(2, 8, 3, generator=g), torch.randn(2, 8, 1, generator=g)
    net.step(x, y)
    state = net.state()
    net.step(x, y)
    expected = net(x).detach().clone()
    for _ in range(5):
        net.step(x, -y)
    net.restore(state)
    net.step(x, y)
    assert torch.equal(net(x), expected)


def test_surprise_is_minus_the_log_density_up_to_a_constant():
    out, y = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    normal = torch.distributions.Normal(out, 1.0)
    expected = -(normal.log_prob(y) - torch.distributions.Normal(0.0, 1.0).log_prob(torch.zeros(()))).sum(-1)
    torch.testing.assert_close(surprise(out, y), expected)
    labels = torch.randint(0, 3, (2, 7))
    torch.testing.assert_close(surprise(out, labels), -torch.distributions.Categorical(logits=out).log_prob(labels))
