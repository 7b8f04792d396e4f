"""ResNet-18 and -50 and VGG-16 for images of 224 x 224, with random weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Kernels of the convolutions of a block, which of them has the stride, and what its output is wider by."""

    kernels: Sequence[int]
    strided: int
    expansion: int
    blocks: Sequence[int]


SHAPES = {"resnet18": Shape((3, 3), 0, 1, (2, 2, 2, 2)), "resnet50": Shape((1, 3, 1), 1, 4, (3, 4, 6, 3))}


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Convolutions beside a shortcut (He et al., arXiv 1512.03385)."""

    def __init__(self, inputs: int, width: int, stride: int, shape: Shape) -> None:
        super().__init__()
        last = len(shape.kernels) - 1
        widths = [inputs, *[width] * last, width * shape.expansion]
        self.layers = nn.ModuleList(
            convolution(widths[n], widths[n + 1], kernel, stride if n == shape.strided else 1)
            for n, kernel in enumerate(shape.kernels)
        )
        same = stride == 1 and inputs == widths[-1]
        self.shortcut = nn.Identity() if same else convolution(inputs, widths[-1], 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.layers[:-1]:
            out = layer(out).relu()
        return (self.layers[-1](out) + self.shortcut(x)).relu()


def resnet(name: str) -> nn.Module:
    """A network whose batch norms have seen noise."""
    torch.manual_seed(0)
    shape, width = SHAPES[name], 64
    layers: list[nn.Module] = [convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for stage, count in enumerate(shape.blocks):
        block = partial(Block, width=64 * 2**stage, shape=shape)
        layers += [block(width, stride=2 if stage else 1)]
        width = 64 * 2**stage * shape.expansion
        layers += [block(width, stride=1) for _ in range(count - 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(8, 3, 224, 224))
    return model.eval()


def vgg16() -> nn.Module:
    """Thirteen convolutions and three linear layers (Simonyan & Zisserman, arXiv 1409.1556)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for width, count in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(before * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, nn.Flatten(), *head).eval()
