"""Recurrent cells in ops that have rules compute what torch's do."""

import torch
from torch import nn

from mipp.modules.cells import CELLS, differentiable_recurrence


def test_a_cell_in_ops_equals_that_of_torch():
    torch.manual_seed(0)
    x, hidden, cell = (torch.randn(3, n, dtype=torch.float64) for n in (4, 5, 5))
    lstm, gru = nn.LSTMCell(4, 5).double(), nn.GRUCell(4, 5).double()
    found = CELLS[torch.ops.aten.lstm_cell.default](x, (hidden, cell), *lstm.parameters())
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(found, lstm(x, (hidden, cell)), strict=True))
    assert torch.allclose(CELLS[torch.ops.aten.gru_cell.default](x, hidden, *gru.parameters()), gru(x, hidden))


def test_a_recurrent_model_has_derivatives_in_the_block_and_cudnn_afterwards():
    enabled = torch.backends.cudnn.enabled
    model = nn.LSTM(3, 4).eval()
    with differentiable_recurrence(model):
        assert not torch.backends.cudnn.enabled
        model(torch.randn(5, 2, 3))[0].sum().backward()
    assert model.weight_ih_l0.grad is not None
    assert torch.backends.cudnn.enabled == enabled
