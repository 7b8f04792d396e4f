"""The moments of a weight are those of all rows that it reads, at whatever use."""

import torch
from networks import normal
from torch import nn

import mipp
from mipp.data.calibration import read
from mipp.statistics.observing import site_statistics


class Stepwise(nn.Module):
    """A cell that goes through sequences, and a linear layer behind its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 5), nn.Linear(5, 2)

    def states(self, sequences):
        found = [self.cell(sequences[:, 0])]
        for step in sequences[:, 1:].unbind(1):
            found.append(self.cell(step, found[-1]))
        return found

    def forward(self, sequences):
        return self.head(self.states(sequences)[-1])


def test_moments_of_a_weight_that_is_used_step_by_step_are_those_of_all_steps():
    model, sequences = Stepwise().eval(), normal(20, 150, 3)
    batches = read(mipp.Calibration(sequences.split(20)), None)
    found = site_statistics(model, mipp.inspect(model, sequences).graph, batches).values()
    (moments,) = next(own for own in found if own.weight.shape == (15, 5)).inputs
    states = torch.cat([torch.zeros(20, 5), *model.states(sequences)[:-1]]).detach()
    assert moments.count == len(states) > 2048  # more than are put together
    assert torch.allclose(moments.covariance, states.double().T.cov(correction=0), rtol=1e-4, atol=1e-6)
