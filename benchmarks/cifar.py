"""CIFAR-10 for benchmarks: pretrained ResNets, draws of calibration images, accuracy."""

import copy
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mipp import zoo

WEIGHTS = {"resnet20": "resnet20-12fca82f.safetensors", "resnet56": "resnet56-4bfd9763.safetensors"}
SAMPLES = 1024
EXCLUDED = ("conv1",)
"""The first stage's residual stream of the ResNets stays, for all methods: MIPP would keep it, peers would not."""


def calibration(train: zoo.ImageData, draw: int) -> Tensor:
    """A draw of unlabelled training images."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
    return train.normalise(order[:SAMPLES])


def pretrained(name: str, folder: Path) -> nn.Module:
    model: nn.Module = zoo.networks()[name]()
    model.load_state_dict(load_file(folder / WEIGHTS[name]))
    return model.eval()


def accuracy(model: nn.Module, data: zoo.ImageData) -> float:
    """Test accuracy in percent, on a copy in the memory layout that is fastest."""
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return round(zoo.accuracy(fast, data), 2)


def forward_seconds(model: nn.Module, images: Tensor) -> float:
    """Time of one pass over the calibration images."""
    with torch.inference_mode():
        model(images[:128])
        start = time.perf_counter()
        for part in images.split(128):
            model(part)
    return time.perf_counter() - start
