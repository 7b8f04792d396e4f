"""Prune a network of your own to half its MACs, save it, and load it again."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import mipp


def make() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


model = make()
calibration = [torch.randn(64, 3, 16, 16) for _ in range(4)]  # your unlabelled images
result = mipp.prune(model, calibration, mipp.Budget(macs=0.5), progress=False)
print(result.report)

with tempfile.TemporaryDirectory() as folder:
    result.save(Path(folder) / "small")
    small = mipp.load(Path(folder) / "small", make)
image = torch.randn(1, 3, 16, 16)
print("bit-identical after loading:", torch.equal(small.eval()(image), result.model.eval()(image)))
