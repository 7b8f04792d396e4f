"""Prune the hidden units of an LSTM, and go on with half as many."""

import torch
from torch import Tensor, nn

import mipp


class Tagger(nn.Module):
    """A label for every token."""

    def __init__(self, words: int = 100, width: int = 32, labels: int = 5) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.labels = nn.Linear(width, labels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.labels(self.lstm(self.words(tokens))[0])


torch.manual_seed(0)
model = Tagger()
batches = [torch.randint(100, (32, 20)) for _ in range(4)]  # your token ids
result = mipp.prune(model, batches, mipp.Budget(params=0.5), exclude=["words"], progress=False)
print(result.report)
print(result.model)
print("labels of new tokens:", result.model(torch.randint(100, (1, 12))).argmax(-1).tolist())
