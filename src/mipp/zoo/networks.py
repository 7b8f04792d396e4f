"""The networks of the paper's experiments, and one small enough to train while you wait."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mipp.zoo import resnets

Widths5 = tuple[int, int, int, int, int]


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max-pooling for 28x28 images (LeCun et al., Proc. IEEE 1998).

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        widths: nodes of conv1, conv2, fc1 and fc2.
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, widths: tuple[int, int, int, int] = (6, 16, 120, 84)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5, padding=2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.fc1 = nn.Linear(25 * widths[1], widths[2])
        self.fc2 = nn.Linear(widths[2], widths[3])
        self.fc3 = nn.Linear(widths[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[N, in_channels, 28, 28]` to logits `[N, num_classes]`."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


class DigitsCNN(nn.Module):
    """Two convolutions and a residual block for 8x8 digits: seconds to train, yet with every kind of coupling.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        widths: nodes of conv1 and conv2; the residual block is as wide as conv2.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, widths: tuple[int, int] = (32, 64)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.conv2 = nn.Conv2d(widths[0], widths[1], 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[1])
        self.block = resnets.BasicBlock(widths[1], widths[1])
        self.fc = nn.Linear(widths[1], num_classes)
        resnets.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[N, in_channels, 8, 8]` to logits `[N, num_classes]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        logits: Tensor = self.fc(self.block(x).mean(dim=(2, 3)))
        return logits


class VGG(nn.Module):
    """VGG with batch norm and one linear classifier, as is usual for CIFAR (Simonyan and Zisserman, ICLR 2015).

    Args:
        depths: convolutions in each of the five stages; a stage ends in a 2x2 max-pool.
        num_classes: outputs.
        in_channels: channels of the images.
        widths: nodes of the convolutions of each stage.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int, int],
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Widths5 = (64, 128, 256, 512, 512),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for depth, width in zip(depths, widths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        resnets.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[N, in_channels, H, W]`, H and W at least 32, to logits `[N, num_classes]`."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def vgg11(num_classes: int = 10, in_channels: int = 3, widths: Widths5 = (64, 128, 256, 512, 512)) -> VGG:
    """VGG-11 in CIFAR form."""
    return VGG((1, 1, 2, 2, 2), num_classes, in_channels, widths)


def vgg16(num_classes: int = 10, in_channels: int = 3, widths: Widths5 = (64, 128, 256, 512, 512)) -> VGG:
    """VGG-16 in CIFAR form."""
    return VGG((2, 2, 3, 3, 3), num_classes, in_channels, widths)


def vgg19(num_classes: int = 10, in_channels: int = 3, widths: Widths5 = (64, 128, 256, 512, 512)) -> VGG:
    """VGG-19 in CIFAR form."""
    return VGG((2, 2, 4, 4, 4), num_classes, in_channels, widths)


def networks() -> dict[str, Callable[..., nn.Module]]:
    """Return every network by name; each factory takes `num_classes`, `in_channels` and `widths`.

    >>> model = networks()["resnet20"](num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    275572
    """
    factories: list[Callable[..., nn.Module]] = [vgg11, vgg16, vgg19]
    factories += [resnets.resnet18, resnets.resnet34, resnets.resnet50]
    factories += [resnets.resnet20, resnets.resnet32, resnets.resnet44, resnets.resnet56, resnets.resnet110]
    return {"lenet5": LeNet5, "digits_cnn": DigitsCNN} | {factory.__name__: factory for factory in factories}
