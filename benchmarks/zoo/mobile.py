"""Depthwise convolution, squeeze-excite, ghost features, inverted residuals."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.registry import image, pattern


class ConvNormActivation(nn.Sequential):
    """Convolution, batch norm and, unless None, an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU6,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([activation()] if activation else []))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to the input when the shapes agree (MobileNetV2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.use_res_connect = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(ConvNormActivation(inputs, hidden, 1))
        layers += [
            ConvNormActivation(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormActivation(3, 8, stride=2),
            InvertedResidual(8, 8, 1, 1),
            InvertedResidual(8, 12, 2, 4),
            InvertedResidual(12, 12, 1, 4),
            ConvNormActivation(12, 32, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


@pattern(
    "MobileNetV2",
    image(3, 16),
    {
        "features.0.0": 8,  # with the depthwise convolution of features.1 and, by its shortcut, its projection
        "features.2.conv.0.0": 32, "features.3.conv.0.0": 48,
        "features.2.conv.2": 12,  # with the projection of features.3
        "features.4.0": 32,
    },
)  # fmt: skip
def mobilenet_v2() -> nn.Module:
    return MobileNetV2()


class SqueezeExcitation(nn.Module):
    """Gates every channel by what all channels are on average."""

    def __init__(self, channels: int, squeezed: int, activation: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = activation(), gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))
        return self.scale_activation(self.fc2(scale)) * x


class MobileNetV3Block(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        self.block = nn.Sequential(
            ConvNormActivation(inputs, hidden, 1, activation=nn.Hardswish),
            ConvNormActivation(hidden, hidden, kernel, stride, hidden, nn.Hardswish),
            SqueezeExcitation(hidden, hidden // 4, nn.ReLU, nn.Hardsigmoid),
            ConvNormActivation(hidden, outputs, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.use_res_connect:
            result += x
        return result


@pattern(
    "MobileNetV3",
    image(3, 16),
    {
        "0.0": 8,
        "1.block.0.0": 24,  # with the depthwise convolution and fc2 of the squeeze-excite
        "1.block.2.fc1": 6,
        "1.block.3.0": 12,  # the stream: with the projection of block 2
        "2.block.0.0": 32, "2.block.2.fc1": 8,
        "3.0": 32, "6": 24,
    },
)  # fmt: skip
def mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        ConvNormActivation(3, 8, stride=2, activation=nn.Hardswish),
        MobileNetV3Block(8, 24, 12, 5, 2), MobileNetV3Block(12, 32, 12, 3, 1),
        ConvNormActivation(12, 32, 1, activation=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
        nn.Linear(32, 24), nn.Hardswish(inplace=True), nn.Dropout(0.2, inplace=True), nn.Linear(24, 10),
    )  # fmt: skip


def stochastic_depth(x: Tensor, probability: float, *, training: bool) -> Tensor:
    """Drops whole samples while training."""
    if not training or probability == 0.0:
        return x
    survival = 1.0 - probability
    noise = torch.empty([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    return x * noise.bernoulli_(survival).div_(survival)


class MBConv(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        self.block = nn.Sequential(
            ConvNormActivation(inputs, hidden, 1, activation=nn.SiLU),
            ConvNormActivation(hidden, hidden, 3, stride, hidden, nn.SiLU),
            SqueezeExcitation(hidden, max(1, inputs // 2), partial(nn.SiLU, inplace=True), nn.Sigmoid),
            ConvNormActivation(hidden, outputs, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.use_res_connect:
            result = stochastic_depth(result, 0.2, training=self.training)
            result += x
        return result


class FusedMBConv(nn.Module):
    """One 3x3 convolution in place of expansion and depthwise convolution (EfficientNetV2)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ConvNormActivation(width, hidden, 3, activation=nn.SiLU),
            ConvNormActivation(hidden, width, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return stochastic_depth(self.block(x), 0.2, training=self.training) + x


@pattern(
    "EfficientNet",
    image(3, 16),
    {
        "0.0": 8,  # with the projection of the fused block
        "1.block.0.0": 16,
        "2.block.0.0": 32, "2.block.2.fc1": 4, "2.block.3.0": 12,
        "3.block.0.0": 48, "3.block.2.fc1": 6,
        "4.0": 32,
    },
)  # fmt: skip
def efficientnet() -> nn.Module:
    return nn.Sequential(
        ConvNormActivation(3, 8, stride=2, activation=nn.SiLU), FusedMBConv(8, 16),
        MBConv(8, 32, 12, 2), MBConv(12, 48, 12, 1),
        ConvNormActivation(12, 32, 1, activation=nn.SiLU), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
        nn.Dropout(0.2, inplace=True), nn.Linear(32, 10),
    )  # fmt: skip


class MNASNetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        mid = inputs * expansion
        self.apply_residual = inputs == outputs and stride == 1
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, mid, 1, bias=False), nn.BatchNorm2d(mid, momentum=0.0003), nn.ReLU(inplace=True),
            nn.Conv2d(mid, mid, kernel, padding=kernel // 2, stride=stride, groups=mid, bias=False),
            nn.BatchNorm2d(mid, momentum=0.0003), nn.ReLU(inplace=True),
            nn.Conv2d(mid, outputs, 1, bias=False), nn.BatchNorm2d(outputs, momentum=0.0003),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x if self.apply_residual else self.layers(x)


class MNASNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
            nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8),
            MNASNetBlock(8, 12, 3, 2, 3), MNASNetBlock(12, 12, 5, 1, 3),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(p=0.2, inplace=True), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.layers(x).mean([2, 3]))


@pattern(
    "MNASNet",
    image(3, 16),
    {"layers.0": 12, "layers.6": 8, "layers.8.layers.0": 24, "layers.8.layers.6": 12, "layers.9.layers.0": 36},
)
def mnasnet() -> nn.Module:
    return MNASNet()


class RegNetBlock(nn.Module):
    """Bottleneck with a grouped convolution of fixed group width and squeeze-excite (RegNetY)."""

    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.proj = ConvNormActivation(inputs, outputs, 1, stride, activation=None) if inputs != outputs else None
        self.a = ConvNormActivation(inputs, outputs, 1, activation=nn.ReLU)
        self.b = ConvNormActivation(outputs, outputs, 3, stride, outputs // group_width, nn.ReLU)
        self.se = SqueezeExcitation(outputs, inputs // 2, nn.ReLU, nn.Sigmoid)
        self.c = ConvNormActivation(outputs, outputs, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.proj is None else self.proj(x)
        return F.relu(residual + self.c(self.se(self.b(self.a(x)))))


@pattern(
    "RegNet",
    image(3, 16),
    {
        "0.0": 8,
        # 2 convolution groups of 8: the same position of both is a node; fc2 belongs to b
        "1.a.0": 8, "1.b.0": 8, "1.se.fc1": 4,
        "1.c.0": 16,  # with proj and c of the next block
        "2.a.0": 8, "2.b.0": 8, "2.se.fc1": 8,
    },
)  # fmt: skip
def regnet() -> nn.Module:
    return nn.Sequential(
        ConvNormActivation(3, 8, stride=2, activation=nn.ReLU), RegNetBlock(8, 16, 2, 8), RegNetBlock(16, 16, 1, 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 10),
    )  # fmt: skip


class GhostModule(nn.Module):
    """Half of the channels by a convolution, the other half from those by a cheap depthwise one."""

    def __init__(self, inputs: int, outputs: int, *, relu: bool = True) -> None:
        super().__init__()
        self.oup = outputs
        made = outputs // 2
        self.primary_conv = ConvNormActivation(inputs, made, 1, activation=nn.ReLU if relu else None)
        self.cheap_operation = ConvNormActivation(made, made, 3, 1, made, nn.ReLU if relu else None)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        x2 = self.cheap_operation(x1)
        out = torch.cat([x1, x2], dim=1)
        return out[:, : self.oup, :, :]


class GhostSqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool2d(x, 1)
        gate = self.conv_expand(F.relu(self.conv_reduce(gate)))
        return x * (F.relu6(gate + 3.0) / 6.0)


class GhostBottleneck(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ghost1 = GhostModule(inputs, hidden)
        if stride > 1:
            self.conv_dw = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
            self.bn_dw = nn.BatchNorm2d(hidden)
            self.se = GhostSqueezeExcite(hidden, hidden // 4)
        self.ghost2 = GhostModule(hidden, outputs, relu=False)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x = self.ghost1(x)
        if self.stride > 1:
            x = self.se(self.bn_dw(self.conv_dw(x)))
        x = self.ghost2(x)
        x += self.shortcut(residual)
        return x


@pattern(
    "GhostNet",
    image(3, 16),
    {
        # a ghost module makes channel i + half from channel i: they are one node, also where they are added
        "0.0": 8,
        "1.ghost1.primary_conv.0": 16,
        "2.ghost1.primary_conv.0": 16, "2.se.conv_reduce": 8, "2.ghost2.primary_conv.0": 12,
        "3.0": 32,
    },
)  # fmt: skip
def ghostnet() -> nn.Module:
    return nn.Sequential(
        ConvNormActivation(3, 16, stride=2, activation=nn.ReLU),
        GhostBottleneck(16, 32, 16, 1), GhostBottleneck(16, 32, 24, 2),
        ConvNormActivation(24, 32, 1, activation=nn.ReLU), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1),
        nn.Linear(32, 10),
    )  # fmt: skip
