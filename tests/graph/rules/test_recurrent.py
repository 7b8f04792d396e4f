"""Units of recurrent layers are nodes with all their gates, whatever the steps, directions and projections."""

import pytest
import torch
from networks import normal
from torch import nn

import mipp


class Reader(nn.Module):
    """A recurrent layer behind a convolution, whose channels are its inputs or its steps, and a linear layer."""

    def __init__(self, rnn: nn.RNNBase, width: int, *, steps: bool = False) -> None:
        super().__init__()
        self.conv, self.rnn, self.head = nn.Conv1d(3, 6, 3, padding=1), rnn, nn.Linear(width, 2)
        self.steps = steps

    def forward(self, x):
        maps = self.conv(x)
        return self.head(self.rnn(maps if self.steps else maps.transpose(1, 2))[0])


@pytest.mark.parametrize(("make", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_unit_goes_with_all_its_gates(make, gates):
    found = mipp.inspect(Reader(make(6, 10, batch_first=True), 10).eval(), normal(2, 3, 7))
    rows = {(s.tensor, s.axis): s.positions for s in found.graph.groups["rnn"].slices}
    assert found.graph.groups["rnn"].size == 10
    assert {name for name, axis in rows if axis == 0} >= {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_hh_l0"}
    own = torch.as_tensor(rows["rnn.weight_ih_l0", 0]).reshape(10, -1)[3].tolist()
    assert sorted(own) == [10 * gate + 3 for gate in range(gates)]
    assert ("rnn.weight_hh_l0", 1) in rows
    assert found.graph.groups["conv"].size == 6


def test_outputs_of_a_projection_are_other_nodes_than_its_units():
    found = mipp.inspect(Reader(nn.LSTM(6, 10, proj_size=4, batch_first=True), 4).eval(), normal(2, 3, 7))
    assert sorted(group.size for group in found.graph.groups.values()) == [4, 6, 10]


def test_steps_stay():
    model = Reader(nn.GRU(7, 10, batch_first=True), 10, steps=True).eval()
    found = mipp.inspect(model, normal(2, 3, 7))
    assert "conv" not in found.graph.groups
    assert any("recurrent_states" in str(frozen.reason) for frozen in found.frozen if "conv" in str(frozen))


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_single_step_is_pruned_too(make):
    model = Reader(make(6, 10, batch_first=True), 10).eval()
    result = mipp.prune(model, [normal(40, 3, 1)], mipp.Budget(nodes=0.5), progress=False)
    assert result.model.rnn.hidden_size < 10
