"""The parts of a run that its result depends on, as hashes: equal for equal models, and different for others."""

import torch
from torch import nn

from mipp.graph.call import Call
from mipp.graph.trace import trace
from mipp.pipeline.identity import hash_model, write_ops


def network(slope: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(slope))


def test_equal_models_have_equal_hashes():
    assert hash_model(network()) == hash_model(network())


def test_weights_and_settings_are_told_apart():
    other, steeper = network(), network(0.2)
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-6
    own = hash_model(network())
    assert {k for k, v in hash_model(other).items() if v != own[k]} == {"weights"}
    assert {k for k, v in hash_model(steeper).items() if v != own[k]} == {"layers"}


def test_ops_are_written_with_all_that_they_received():
    lines = [write_ops(trace(network(slope).eval(), Call((torch.randn(2, 3),)))) for slope in (0.1, 0.1, 0.2)]
    assert lines[0] == lines[1] != lines[2]
    assert "leaky_relu" in lines[2][-1]
    assert "0.2" in lines[2][-1]
