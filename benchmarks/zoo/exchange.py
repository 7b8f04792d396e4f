"""Networks that exchange channels or resolutions: ShuffleNet, HRNet, DLA, Res2Net."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.classics import BasicBlock
from benchmarks.zoo.registry import image, pattern


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleaves `groups` equal parts of the channels."""
    batchsize, num_channels, height, width = x.size()
    channels_per_group = num_channels // groups
    x = x.view(batchsize, groups, channels_per_group, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, -1, height, width)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, 1, bias=False, groups=channels)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved, then both are interleaved (ShuffleNetV2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = outputs // 2
        if stride > 1:
            self.branch1 = nn.Sequential(
                depthwise(inputs, stride), nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            )  # fmt: skip
        self.branch2 = nn.Sequential(
            nn.Conv2d(inputs if stride > 1 else half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            depthwise(half, stride), nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(ShuffleUnit(8, 32, 2), ShuffleUnit(32, 32, 1), ShuffleUnit(32, 32, 1))
        self.conv5 = nn.Sequential(nn.Conv2d(32, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stage2(self.conv1(x)))
        return self.fc(x.mean([2, 3]))


@pattern(
    "ShuffleNetV2",
    image(3, 16),
    {
        "conv1.0": 8,
        # the first shuffle pairs the 16 channels of both branches; each chunk of the shuffled channels pairs position i
        # with i + 16, so that of the 16 pairs 8 and then 4 sets can go independently
        "stage2.0.branch1.2": 4,
        "stage2.0.branch2.0": 16, "stage2.1.branch2.0": 16, "stage2.2.branch2.0": 16,
        "conv5.0": 24,
    },
)  # fmt: skip
def shufflenet_v2() -> nn.Module:
    return ShuffleNetV2()


class GroupedShuffleUnit(nn.Module):
    """Grouped 1x1 convolutions with a shuffle between them (ShuffleNet)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.gconv1 = nn.Conv2d(width, width, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.dw = depthwise(width, 1)
        self.gconv2 = nn.Conv2d(width, width, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.gconv1(x)))
        out = self.dw(channel_shuffle(out, self.groups))
        return F.relu(x + self.bn2(self.gconv2(out)))


@pattern(
    "ShuffleNet",
    image(3, 12),
    {
        "0": 8,  # 16 channels: grouped convolutions read the same position of both groups, and write the stream
        "2.gconv1": 4,  # paired by its 2 groups, and once more by gconv2 after the shuffle
    },
)
def shufflenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), GroupedShuffleUnit(16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if relu else []))


class HighResolutionModule(nn.Module):
    """Branches at several resolutions; each output is the sum of all of them, resampled."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(BasicBlock(w, w)) for w in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._fuse(j, i, widths) for j in range(len(widths))) for i in range(len(widths))
        )

    @staticmethod
    def _fuse(source: int, target: int, widths: tuple[int, ...]) -> nn.Module:
        if source == target:
            return nn.Identity()
        stride = 1 if source > target else 2
        return conv_norm(widths[source], widths[target], 1 if stride == 1 else 3, stride, relu=False)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        x = [branch(part) for branch, part in zip(self.branches, x, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse_layers):
            y = row[0](x[0])
            for j in range(1, len(x)):
                part = row[j](x[j])
                y = y + (
                    F.interpolate(part, size=x[i].shape[-2:], mode="bilinear", align_corners=True) if j > i else part
                )
            fused.append(F.relu(y))
        return fused


class HRNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 12, stride=2)
        self.transition = nn.ModuleList([conv_norm(12, 8), conv_norm(12, 16, stride=2)])
        self.stage = HighResolutionModule((8, 16))
        self.last_layer = nn.Sequential(conv_norm(24, 20, 1), nn.Conv2d(20, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        high, low = self.stage([layer(x) for layer in self.transition])
        low = F.interpolate(low, size=(high.size(2), high.size(3)), mode="bilinear", align_corners=False)
        return self.last_layer(torch.cat([high, low], 1))


@pattern(
    "HRNet",
    image(3, 16),
    {
        "stem.0": 12,
        "transition.0.0": 8,  # with conv2 of its branch and what the other branch adds to it
        "transition.1.0": 16,
        "stage.branches.0.0.conv1": 8, "stage.branches.1.0.conv1": 16,
        "last_layer.0.0": 20,
    },
)  # fmt: skip
def hrnet() -> nn.Module:
    return HRNet()


class DLABlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        residual = x if residual is None else residual
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += residual
        return F.relu(out)


class Root(nn.Module):
    """Aggregation: a 1x1 convolution over everything concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, *x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(torch.cat(x, 1))))


class Tree(nn.Module):
    """Hierarchical deep aggregation: two subtrees, joined by the root of the deepest."""

    def __init__(
        self, levels: int, inputs: int, outputs: int, stride: int, root_width: int = 0, *, level_root: bool = False
    ) -> None:
        super().__init__()
        root_width = (root_width or 2 * outputs) + (inputs if level_root else 0)
        self.levels, self.level_root = levels, level_root
        self.downsample = nn.MaxPool2d(stride, stride=stride) if stride > 1 else None
        self.project = None
        if levels == 1:
            self.tree1: nn.Module = DLABlock(inputs, outputs, stride)
            self.tree2: nn.Module = DLABlock(outputs, outputs, 1)
            self.root = Root(root_width, outputs)
            if inputs != outputs:
                self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        else:
            self.tree1 = Tree(levels - 1, inputs, outputs, stride)
            self.tree2 = Tree(levels - 1, outputs, outputs, 1, root_width + outputs)

    def forward(self, x: Tensor, residual: Tensor | None = None, children: list[Tensor] | None = None) -> Tensor:
        children = [] if children is None else children
        bottom = self.downsample(x) if self.downsample else x
        residual = self.project(bottom) if self.project else bottom
        if self.level_root:
            children.append(bottom)
        x1 = self.tree1(x, residual)
        if self.levels > 1:
            return self.tree2(x1, children=[*children, x1])
        x2 = self.tree2(x1)
        return self.root(x2, x1, *children)


@pattern(
    "DLA",
    image(3, 16),
    {
        "0.0": 8, "1.root.conv": 12, "2.tree1.root.conv": 16, "2.tree2.root.conv": 16,
        "1.tree1.conv1": 12, "1.tree2.conv1": 12,
        "1.project.0": 12,  # with conv2 of both blocks
        "2.tree1.tree1.conv1": 16, "2.tree1.tree2.conv1": 16, "2.tree1.project.0": 16,
        # the stream of tree2.tree1 begins at the root of tree1 (no projection): it is in its group
        "2.tree2.tree1.conv1": 16, "2.tree2.tree2.conv1": 16,
    },
)  # fmt: skip
def dla() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 8), Tree(1, 8, 12, 2), Tree(2, 12, 16, 2, level_root=True),
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 10, 1), nn.Flatten(1),
    )  # fmt: skip


class Res2NetBlock(nn.Module):
    """A bottleneck whose middle is a hierarchy of splits."""

    def __init__(self, inputs: int, width: int, scales: int) -> None:
        super().__init__()
        self.width, self.nums = width, scales - 1
        self.conv1, self.bn1 = nn.Conv2d(inputs, width * scales, 1, bias=False), nn.BatchNorm2d(width * scales)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(self.nums))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(self.nums))
        self.conv3, self.bn3 = nn.Conv2d(width * scales, inputs, 1, bias=False), nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        spx = torch.split(out, self.width, 1)
        sp = out = self.relu(self.bns[0](self.convs[0](spx[0])))
        for i in range(1, self.nums):
            sp = self.relu(self.bns[i](self.convs[i](sp + spx[i])))
            out = torch.cat((out, sp), 1)
        out = torch.cat((out, spx[self.nums]), 1)
        return self.relu(self.bn3(self.conv3(out)) + x)


@pattern(
    "Res2Net",
    image(3, 16),
    {
        "0.0": 12,
        # the splits have one width: position i of all 4 parts is a node; convs.0 and convs.1 are added to parts
        "1.conv1": 6,
        "1.convs.2": 6,
    },
)
def res2net() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 12, stride=2), Res2NetBlock(12, 6, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
    )
