"""Networks of concatenated branches: DenseNet, GoogLeNet, Inception, SqueezeNet."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.registry import image, pattern


class DenseLayer(nn.Module):
    """Norm-first bottleneck that reads everything before it in its block."""

    def __init__(self, inputs: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, bottleneck, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        bottleneck = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(bottleneck)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers: int, inputs: int, growth: int, widening: int = 2) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(inputs + i * growth, growth, widening * growth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        transition = nn.Sequential(
            OrderedDict(
                norm=nn.BatchNorm2d(24), relu=nn.ReLU(True),
                conv=nn.Conv2d(24, 12, 1, bias=False), pool=nn.AvgPool2d(2),
            )
        )  # fmt: skip
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, 8, 3, padding=1, bias=False), norm0=nn.BatchNorm2d(8), relu0=nn.ReLU(True),
                denseblock1=DenseBlock(2, 8, 8), transition1=transition,
                denseblock2=DenseBlock(2, 12, 8), norm5=nn.BatchNorm2d(28),
            )
        )  # fmt: skip
        self.classifier = nn.Linear(28, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.classifier(torch.flatten(out, 1))


@pattern(
    "DenseNet",
    image(3, 16),
    {
        "features.conv0": 8,
        "features.denseblock1.denselayer1.conv1": 16, "features.denseblock1.denselayer1.conv2": 8,
        "features.denseblock1.denselayer2.conv1": 16, "features.denseblock1.denselayer2.conv2": 8,
        "features.transition1.conv": 12,
        "features.denseblock2.denselayer1.conv1": 16, "features.denseblock2.denselayer1.conv2": 8,
        "features.denseblock2.denselayer2.conv1": 16, "features.denseblock2.denselayer2.conv2": 8,
    },
)  # fmt: skip
def densenet() -> nn.Module:
    return DenseNet()


class ConvNorm(nn.Module):
    """Convolution, batch norm, functional ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four branches over one input, concatenated."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1 = ConvNorm(inputs, 8, 1)
        self.branch2 = nn.Sequential(ConvNorm(inputs, 6, 1), ConvNorm(6, 8, 3, padding=1))
        self.branch3 = nn.Sequential(ConvNorm(inputs, 4, 1), ConvNorm(4, 6, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), ConvNorm(inputs, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


INCEPTION = {"branch1": 8, "branch2.0": 6, "branch2.1": 8, "branch3.0": 4, "branch3.1": 6, "branch4.1": 6}


@pattern(
    "GoogLeNet",
    image(3, 16),
    {"0.conv": 12} | {f"{i}.{branch}.conv": n for i in (2, 3) for branch, n in INCEPTION.items()},
)
def googlenet() -> nn.Module:
    return nn.Sequential(
        ConvNorm(3, 12, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True), Inception(12), Inception(28),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(28, 10),
    )  # fmt: skip


class InceptionE(nn.Module):
    """Factorised kernels, and branches that fork once more."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 8, 1)
        self.branch3x3_1 = ConvNorm(inputs, 10, 1)
        self.branch3x3_2a = ConvNorm(10, 6, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNorm(10, 7, (3, 1), padding=(1, 0))
        self.branch_pool = ConvNorm(inputs, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch3x3 = self.branch3x3_1(x)
        branch3x3 = torch.cat([self.branch3x3_2a(branch3x3), self.branch3x3_2b(branch3x3)], 1)
        branch_pool = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), branch3x3, branch_pool], 1)


@pattern(
    "Inception v3",
    image(3, 16),
    {
        "stem.conv": 8, "mixed.branch1x1.conv": 8, "mixed.branch3x3_1.conv": 10, "mixed.branch3x3_2a.conv": 6,
        "mixed.branch3x3_2b.conv": 7, "mixed.branch_pool.conv": 5,
    },
)  # fmt: skip
def inception_v3() -> nn.Module:
    head = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1), nn.Linear(26, 10))
    return nn.Sequential(OrderedDict(stem=ConvNorm(3, 8, 3), mixed=InceptionE(8), head=head))


class Fire(nn.Module):
    """Squeeze to few channels, expand with two kernel sizes."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


@pattern(
    "SqueezeNet",
    image(3, 16),
    {
        "0": 12,
        "3.squeeze": 6, "3.expand1x1": 8, "3.expand3x3": 8,
        "4.squeeze": 6, "4.expand1x1": 10, "4.expand3x3": 10,
    },
)  # fmt: skip
def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(12, 6, 8), Fire(16, 6, 10),
        nn.Dropout(0.5), nn.Conv2d(20, 10, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1),
    )  # fmt: skip
