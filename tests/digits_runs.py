"""A small workload on digits for the tests of the grid."""

import torch
from torch import nn

from mipp import grid

RECIPE = grid.Recipe(epochs=1, learning_rate=0.02, batch_size=32)


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def make(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Small()
