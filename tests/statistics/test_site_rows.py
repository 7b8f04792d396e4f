"""The moments of a weight are those of all rows that it reads, at whatever use."""

import torch
from networks import normal
from torch import nn

import mipp
from mipp.data.calibration import read
from mipp.statistics.observing import site_statistics


class Outputs(nn.Module):
    """The first of two results."""

    def forward(self, results):
        return results[0]


def test_moments_of_a_weight_that_is_used_step_by_step_are_those_of_all_steps():
    rnn = nn.GRU(3, 5, batch_first=True).eval()
    model = nn.Sequential(rnn, Outputs(), nn.Linear(5, 2)).eval()
    sequences = normal(20, 150, 3)
    batches = read(mipp.Calibration(sequences.split(20)), None)
    found = site_statistics(model, mipp.inspect(model, sequences).graph, batches).values()
    (moments,) = next(own for own in found if own.weight.shape == (15, 5)).inputs
    states = torch.cat([torch.zeros(20, 1, 5), rnn(sequences)[0][:, :-1]], 1).flatten(0, 1).detach()
    assert moments.count == len(states) > 2048  # more than are put together
    assert torch.allclose(moments.covariance, states.double().T.cov(correction=0), rtol=1e-4, atol=1e-6)
