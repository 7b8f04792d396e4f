"""Chains and residual networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.registry import image, pattern


class AlexNet(nn.Module):
    """Convolutions, a pool to a fixed size, three fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(16, 24, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(32, 24, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(24, 20, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(20 * 2 * 2, 32), nn.ReLU(inplace=True),
            nn.Dropout(), nn.Linear(32, 24), nn.ReLU(inplace=True),
            nn.Linear(24, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


@pattern(
    "AlexNet",
    image(3, 32),
    {
        "features.0": 16, "features.3": 24, "features.6": 32, "features.8": 24, "features.10": 20,
        "classifier.1": 32, "classifier.4": 24,
    },
)  # fmt: skip
def alexnet() -> nn.Module:
    return AlexNet()


class VGG(nn.Module):
    """Stacks of 3x3 convolutions built from a list of widths, "M" for a pool."""

    def __init__(self, widths: tuple[int | str, ...], *, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, int(width), 3, padding=1))
            layers += [nn.BatchNorm2d(int(width))] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = int(width)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(channels * 4, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 2)
        return self.classifier(x.view(x.size(0), -1))


VGG_WIDTHS = (8, 8, "M", 16, 16, "M", 24)


@pattern(
    "VGG",
    image(3, 16),
    {"features.0": 8, "features.2": 8, "features.5": 16, "features.7": 16, "features.10": 24, "classifier.0": 32},
)
def vgg() -> nn.Module:
    return VGG(VGG_WIDTHS, batch_norm=False)


@pattern(
    "VGG-BN",
    image(3, 16),
    {"features.0": 8, "features.3": 8, "features.7": 16, "features.10": 16, "features.14": 24, "classifier.0": 32},
)
def vgg_bn() -> nn.Module:
    return VGG(VGG_WIDTHS, batch_norm=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 (perhaps grouped), 1x1, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, width: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, outputs, stride) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + identity)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, a global pool and a linear layer."""

    def __init__(self, stem: int, layer1: nn.Module, layer2: nn.Module, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2 = layer1, layer2
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(outputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


@pattern(
    "ResNet, basic blocks",
    image(3, 16),
    {
        "conv1": 16,  # the stream of layer1: conv2 of its blocks adds to it
        "layer1.0.conv1": 16, "layer1.1.conv1": 16,
        "layer2.0.conv2": 24,  # the stream of layer2, with downsample.0
        "layer2.0.conv1": 24, "layer2.1.conv1": 24,
    },
)  # fmt: skip
def resnet_basic() -> nn.Module:
    layer1 = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16))
    layer2 = nn.Sequential(BasicBlock(16, 24, 2, shortcut(16, 24, 2)), BasicBlock(24, 24))
    return ResNet(16, layer1, layer2, 24)


def resnet_of_bottlenecks(width: int, groups: int) -> nn.Module:
    layer1 = nn.Sequential(Bottleneck(8, 24, width, groups=groups), Bottleneck(24, 24, width, groups=groups))
    layer2 = nn.Sequential(Bottleneck(24, 32, width, 2, groups=groups))
    return ResNet(8, layer1, layer2, 32)


@pattern(
    "ResNet, bottlenecks",
    image(3, 16),
    {
        "conv1": 8, "layer1.0.conv3": 24, "layer2.0.conv3": 32,
        "layer1.0.conv1": 8, "layer1.0.conv2": 8, "layer1.1.conv1": 8, "layer1.1.conv2": 8,
        "layer2.0.conv1": 8, "layer2.0.conv2": 8,
    },
)  # fmt: skip
def resnet_bottleneck() -> nn.Module:
    return resnet_of_bottlenecks(8, 1)


@pattern(
    "Wide ResNet",
    image(3, 16),
    {
        "conv1": 8, "layer1.0.conv3": 24, "layer2.0.conv3": 32,
        "layer1.0.conv1": 32, "layer1.0.conv2": 32, "layer1.1.conv1": 32, "layer1.1.conv2": 32,
        "layer2.0.conv1": 32, "layer2.0.conv2": 32,
    },
)  # fmt: skip
def wide_resnet() -> nn.Module:
    return resnet_of_bottlenecks(32, 1)


@pattern(
    "ResNeXt, more groups than channels in each",
    image(3, 16),
    # a node is one of the 8 convolution groups: 2 channels of conv1 and 2 of conv2
    {
        "conv1": 8, "layer1.0.conv3": 24, "layer2.0.conv3": 32,
        "layer1.0.conv1": 8, "layer1.1.conv1": 8, "layer2.0.conv1": 8,
    },
)  # fmt: skip
def resnext() -> nn.Module:
    return resnet_of_bottlenecks(16, 8)


@pattern(
    "ResNeXt, fewer groups than channels in each",
    image(3, 16),
    # a node is the same position of both groups: conv1 and conv2 have 8 each, independently
    {
        "conv1": 8, "layer1.0.conv3": 24, "layer2.0.conv3": 32,
        "layer1.0.conv1": 8, "layer1.0.conv2": 8, "layer1.1.conv1": 8, "layer1.1.conv2": 8,
        "layer2.0.conv1": 8, "layer2.0.conv2": 8,
    },
)  # fmt: skip
def resnext_few_groups() -> nn.Module:
    return resnet_of_bottlenecks(16, 2)
