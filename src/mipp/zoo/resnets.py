"""Residual networks: the torchvision family, with a stem for CIFAR or ImageNet, and the original CIFAR family."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

Widths3 = tuple[int, int, int]
Widths4 = tuple[int, int, int, int]
Stem = Literal["cifar", "imagenet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: `relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))`.

    Args:
        in_channels: channels of the input.
        channels: channels of both convolutions and of the output.
        stride: stride of the first convolution.
        downsample: the shortcut where input and output differ in shape; the identity when None.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, channels, H / stride, W / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, and a shortcut; the output has `4 * channels` channels.

    Args:
        in_channels: channels of the input.
        channels: channels of the first two convolutions.
        stride: stride of the 3x3 convolution.
        downsample: the shortcut where input and output differ in shape; the identity when None.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, 4 * channels, H / stride, W / stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + shortcut)


class ResNet(nn.Module):
    """Four stages of residual blocks behind a stem, with torchvision's key names (He et al., CVPR 2016).

    The stem "cifar" is a 3x3 convolution that keeps the resolution, as is usual for 32x32 images. "imagenet" is the
    original, which quarters it: a 7x7 convolution and a max-pool of stride 2 each; with 1000 classes such a network
    loads the weights that torchvision publishes.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        num_classes: outputs.
        in_channels: channels of the images.
        widths: `channels` of the blocks of each stage.
        stem: what comes before the stages.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Widths4 = (64, 128, 256, 512),
        stem: Stem = "cifar",
    ) -> None:
        super().__init__()
        outputs = [block.expansion * width for width in widths]
        large = stem == "imagenet"
        kernel, stride, padding = (7, 2, 3) if large else (3, 1, 1)
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel, stride=stride, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.layer1 = _stage(block, depths[0], widths[0], widths[0], 1, _projection)
        self.layer2 = _stage(block, depths[1], outputs[0], widths[1], 2, _projection)
        self.layer3 = _stage(block, depths[2], outputs[1], widths[2], 2, _projection)
        self.layer4 = _stage(block, depths[3], outputs[2], widths[3], 2, _projection)
        self.fc = nn.Linear(outputs[3], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[N, in_channels, H, W]` to logits `[N, num_classes]`."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class CifarResNet(nn.Module):
    """Three stages of basic blocks with parameter-free shortcuts (He et al., CVPR 2016, section 4.2, option A).

    Where a stage begins, the shortcut takes every second pixel and pads the channels with zeros on both sides, half
    before and half after. Both are stock modules of torch, so that their attributes say what the shortcut does.

    Args:
        depth: layers with weights, `6n + 2`.
        num_classes: outputs.
        in_channels: channels of the images.
        widths: channels of each stage.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3, widths: Widths3 = (16, 32, 64)) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth is {depth}; expected 6n + 2 with n >= 1, such as 20, 32, 44, 56 or 110")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(BasicBlock, blocks, widths[0], widths[0], 1, _subsample_and_pad)
        self.layer2 = _stage(BasicBlock, blocks, widths[0], widths[1], 2, _subsample_and_pad)
        self.layer3 = _stage(BasicBlock, blocks, widths[1], widths[2], 2, _subsample_and_pad)
        self.linear = nn.Linear(widths[2], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[N, in_channels, H, W]` to logits `[N, num_classes]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def initialise(model: nn.Module) -> None:
    """Draw the convolutions as He et al. (ICCV 2015) do for ReLU networks: zero-mean normal, variance 2 / fan-out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _stage(
    block: type[BasicBlock | Bottleneck],
    depth: int,
    in_channels: int,
    channels: int,
    stride: int,
    shortcut: Callable[[int, int, int], nn.Module],
) -> nn.Sequential:
    out_channels = block.expansion * channels
    same_shape = stride == 1 and in_channels == out_channels
    first = block(in_channels, channels, stride, None if same_shape else shortcut(in_channels, out_channels, stride))
    return nn.Sequential(first, *(block(out_channels, channels) for _ in range(depth - 1)))


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _subsample_and_pad(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    before, after = (out_channels - in_channels) // 2, (out_channels - in_channels + 1) // 2
    # On [N, C, H, W] the third pair of a 3-d padding falls on the channels.
    return nn.Sequential(nn.AvgPool2d(1, stride=stride), nn.ZeroPad3d((0, 0, 0, 0, before, after)))


def resnet18(
    num_classes: int = 10, in_channels: int = 3, widths: Widths4 = (64, 128, 256, 512), stem: Stem = "cifar"
) -> ResNet:
    """ResNet-18, in CIFAR form unless `stem` says otherwise."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, widths, stem)


def resnet34(
    num_classes: int = 10, in_channels: int = 3, widths: Widths4 = (64, 128, 256, 512), stem: Stem = "cifar"
) -> ResNet:
    """ResNet-34, in CIFAR form unless `stem` says otherwise."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, widths, stem)


def resnet50(
    num_classes: int = 10, in_channels: int = 3, widths: Widths4 = (64, 128, 256, 512), stem: Stem = "cifar"
) -> ResNet:
    """ResNet-50, in CIFAR form unless `stem` says otherwise."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, widths, stem)


def resnet20(num_classes: int = 10, in_channels: int = 3, widths: Widths3 = (16, 32, 64)) -> CifarResNet:
    """CIFAR ResNet with 20 layers."""
    return CifarResNet(20, num_classes, in_channels, widths)


def resnet32(num_classes: int = 10, in_channels: int = 3, widths: Widths3 = (16, 32, 64)) -> CifarResNet:
    """CIFAR ResNet with 32 layers."""
    return CifarResNet(32, num_classes, in_channels, widths)


def resnet44(num_classes: int = 10, in_channels: int = 3, widths: Widths3 = (16, 32, 64)) -> CifarResNet:
    """CIFAR ResNet with 44 layers."""
    return CifarResNet(44, num_classes, in_channels, widths)


def resnet56(num_classes: int = 10, in_channels: int = 3, widths: Widths3 = (16, 32, 64)) -> CifarResNet:
    """CIFAR ResNet with 56 layers."""
    return CifarResNet(56, num_classes, in_channels, widths)


def resnet110(num_classes: int = 10, in_channels: int = 3, widths: Widths3 = (16, 32, 64)) -> CifarResNet:
    """CIFAR ResNet with 110 layers."""
    return CifarResNet(110, num_classes, in_channels, widths)
