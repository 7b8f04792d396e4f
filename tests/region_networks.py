"""Networks of several regions, and one of a single one."""

import torch
from torch import nn

from mipp.zoo import CifarResNet


class MaskedBlock(nn.Module):
    """A transformer layer whose keys may be hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x, hidden):
        q, k, v = (t.unflatten(-1, (3, 4)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        scores = (q @ k.transpose(2, 3) / 2).masked_fill(hidden[:, None, None], -1e9)
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class MaskedTransformer(nn.Module):
    """Two such layers between an embedding and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 12), nn.Linear(12, 4)
        self.blocks = nn.ModuleList([MaskedBlock(), MaskedBlock()])

    def forward(self, tokens):
        x, hidden = self.embed(tokens), tokens == 0
        for block in self.blocks:
            x = block(x, hidden)
        return self.head(x.masked_fill(hidden[..., None], 0).sum(1))


class Recurrent(nn.Module):
    """An LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def network(kind: str) -> tuple[nn.Module, list[torch.Tensor]]:
    """A network with random weights, and nine batches."""
    torch.manual_seed(0)
    if kind == "residual":
        return CifarResNet(8, num_classes=5, widths=(4, 6, 8)).eval(), [torch.randn(8, 3, 8, 8) for _ in range(9)]
    if kind == "transformer":
        return MaskedTransformer().eval(), [torch.randint(11, (8, 6)) for _ in range(9)]
    if kind == "chain":
        layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 5)).eval(), [
            torch.randn(8, 3, 8, 8) for _ in range(9)
        ]
    return Recurrent().eval(), [torch.randn(8, 4, 5) for _ in range(9)]
