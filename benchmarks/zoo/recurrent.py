"""Recurrent layers and cells.

One `hidden_size` holds for all layers and directions of a module, so that hidden unit i of all of them is one node.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.zoo.registry import gauss, pattern

WORDS = 30


def tokens(samples: int, generator: torch.Generator) -> Tensor:
    return torch.randint(WORDS, (samples, 6), generator=generator)


class Tagger(nn.Module):
    """An embedding, a recurrent layer, and a label per step."""

    def __init__(self, rnn: nn.Module, outputs: int) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(WORDS, 8), rnn
        self.fc = nn.Linear(outputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.embed(x))
        return self.fc(output)


@pattern("LSTM", tokens, {"embed": 8, "rnn": 12})
def lstm() -> nn.Module:
    return Tagger(nn.LSTM(8, 12, batch_first=True), 12)


@pattern("LSTM, two layers, both directions", tokens, {"embed": 8, "rnn": 12})
def deep_lstm() -> nn.Module:
    return Tagger(nn.LSTM(8, 12, num_layers=2, bidirectional=True, dropout=0.1, batch_first=True), 24)


@pattern(
    "LSTM with projections",
    tokens,
    {
        "embed": 8,
        "rnn.weight_ih_l0": 12,  # memory cells
        "rnn.weight_hr_l0": 6,  # what they are projected to: read by the next step, the next layer and fc
    },
)
def projected_lstm() -> nn.Module:
    return Tagger(nn.LSTM(8, 12, num_layers=2, proj_size=6, batch_first=True), 6)


class TimeFirst(Tagger):
    """The recurrent layer wants the steps before the samples."""

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.embed(x).transpose(0, 1))
        return self.fc(output).transpose(0, 1)


@pattern("GRU, two layers, time first", tokens, {"embed": 8, "rnn": 12})
def gru() -> nn.Module:
    return TimeFirst(nn.GRU(8, 12, num_layers=2), 12)


@pattern("GRU, both directions", tokens, {"embed": 8, "rnn": 12})
def bidirectional_gru() -> nn.Module:
    return Tagger(nn.GRU(8, 12, bidirectional=True, batch_first=True), 24)


@pattern("RNN", tokens, {"embed": 8, "rnn": 12})
def rnn() -> nn.Module:
    return Tagger(nn.RNN(8, 12, num_layers=2, nonlinearity="relu", bias=False, batch_first=True), 12)


class LastState(nn.Module):
    """Classifies a series by the last hidden states of both directions of the top layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(x)
        hidden = torch.cat((hidden[-2], hidden[-1]), dim=1)
        return self.fc2(F.relu(self.fc1(hidden)))


@pattern("LSTM, last hidden states", gauss(6, 4), {"lstm": 12, "fc1": 16})
def last_state() -> nn.Module:
    return LastState()


class InitialState(nn.Module):
    """States of zeros that forward makes itself, from attributes of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = 12, 2
        self.lstm = nn.LSTM(4, self.hidden_size, self.num_layers, batch_first=True)
        self.fc = nn.Linear(self.hidden_size, 5)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        out, _ = self.lstm(x, (h0, c0))
        return self.fc(out[:, -1, :])


@pattern("LSTM, initial states made in forward", gauss(6, 4), {"lstm": 12})
def initial_state() -> nn.Module:
    return InitialState()


class LanguageModel(nn.Module):
    """The output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(WORDS, 16), nn.LSTM(16, 16, num_layers=1, batch_first=True)
        self.decoder = nn.Linear(16, WORDS)
        self.decoder.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(F.dropout(self.embed(x), 0.1, training=self.training))
        return self.decoder(output)


# dimension i of the embedding and hidden unit i are read by the same column
@pattern("LSTM language model, tied", tokens, {"embed": 16})
def tied_lstm() -> nn.Module:
    return LanguageModel()


class StateOut(Tagger):
    """Returns its last hidden state beside the labels."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output, (hidden, _) = self.rnn(self.embed(x))
        return self.fc(output), hidden


@pattern("LSTM whose state is an output", tokens, {"embed": 8})
def state_out() -> nn.Module:
    return StateOut(nn.LSTM(8, 12, batch_first=True), 12)


class Packed(nn.Module):
    """Sequences of several lengths, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.lstm = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.fc(output)


@pattern("LSTM on packed sequences", lambda n, g: (tokens(n, g), 6 - torch.arange(n) % 3), {"embed": 8, "lstm": 12})
def packed() -> nn.Module:
    return Packed()


class LstmCells(nn.Module):
    """A stack of two cells, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 12
        self.cell1, self.cell2 = nn.LSTMCell(4, self.hidden_size), nn.LSTMCell(self.hidden_size, 10)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        h1 = c1 = x.new_zeros(x.size(0), self.hidden_size)
        state = None
        outputs = []
        for step in x.unbind(dim=1):
            h1, c1 = self.cell1(step, (h1, c1))
            state = self.cell2(h1, state)
            outputs.append(self.fc(state[0]))
        return torch.stack(outputs, dim=1)


@pattern("LSTM cells", gauss(5, 4), {"cell1": 12, "cell2": 10})
def lstm_cells() -> nn.Module:
    return LstmCells()


class CellDecoder(nn.Module):
    """A decoder each of whose steps reads what the last one said."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.embed, self.cell = nn.Linear(4, 8), cell
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = None
        outputs = []
        for _ in range(4):
            hidden = self.cell(torch.tanh(self.embed(x)), hidden)
            x = self.out(hidden)
            outputs.append(x)
        return torch.cat(outputs, dim=1)


@pattern("GRU cell, autoregressive", gauss(4), {"embed": 8, "cell": 12})
def gru_cell() -> nn.Module:
    return CellDecoder(nn.GRUCell(8, 12))


@pattern("RNN cell, autoregressive", gauss(4), {"embed": 8, "cell": 12})
def rnn_cell() -> nn.Module:
    return CellDecoder(nn.RNNCell(8, 12))


class Seq2Seq(nn.Module):
    """The state of one recurrent layer starts another one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.encoder, self.decoder = nn.GRU(8, 12, batch_first=True), nn.GRU(8, 12, batch_first=True)
        self.fc = nn.Linear(12, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, hidden = self.encoder(self.embed(source))
        output, _ = self.decoder(self.embed(target), hidden)
        return self.fc(output)


@pattern(
    "Encoder and decoder of GRUs",
    lambda n, g: (tokens(n, g), tokens(n, g)),
    {"embed": 8, "encoder": 12},  # unit i of the encoder starts unit i of the decoder
)
def seq2seq() -> nn.Module:
    return Seq2Seq()


class SpeechRecogniser(nn.Module):
    """Convolution, then a recurrent layer over time whose directions are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 3, stride=(2, 1), padding=1), nn.BatchNorm2d(8)
        self.rnn = nn.GRU(8 * 4, 12, bidirectional=True, batch_first=True)
        self.norm, self.fc = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.bn(self.conv(x.unsqueeze(1))), 0, 20)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3]).transpose(1, 2)
        x, _ = self.rnn(x)
        x = x.view(x.size(0), x.size(1), 2, -1).sum(2)
        return self.fc(self.norm(x))


@pattern("Convolution and GRU, directions added", gauss(8, 10), {"conv": 8, "rnn": 12})
def speech() -> nn.Module:
    return SpeechRecogniser()


class Elman(nn.Module):
    """A recurrent network written out: one weight read by its own outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.i2h, self.h2h, self.fc = nn.Linear(4, 12), nn.Linear(12, 12, bias=False), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.i2h(x[:, 0]))
        for t in range(1, x.shape[1]):
            hidden = torch.tanh(self.i2h(x[:, t]) + self.h2h(hidden))
        return self.fc(hidden)


@pattern("Recurrence by hand", gauss(5, 4), {"i2h": 12})
def elman() -> nn.Module:
    return Elman()
