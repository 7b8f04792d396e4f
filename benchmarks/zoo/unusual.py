"""Programs that are no chain of modules: reuse, sharing, functional calls, several inputs and outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.classics import resnet_basic
from benchmarks.zoo.registry import gauss, image, pattern


class UsedTwice(nn.Module):
    """One convolution twice in a row, one block in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.again = nn.Conv2d(12, 12, 3, padding=1)
        self.reduce = nn.Conv2d(12, 8, 1)
        self.hidden, self.back = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.again(F.relu(self.again(F.relu(self.stem(x))))))
        x = self.reduce(x)
        for _ in range(3):
            x = x + self.back(F.relu(self.hidden(x)))
        return self.fc(x.mean((2, 3)))


@pattern(
    "Modules used twice",
    image(3, 10),
    {
        "stem": 12,  # `again` reads its own outputs
        "reduce": 8,  # the stream of the loop
        "hidden": 16,
    },
)
def used_twice() -> nn.Module:
    return UsedTwice()


class SharedWeights(nn.Module):
    """Two convolutions that share a weight, and a decoder that is its encoder transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight
        self.encode = nn.Linear(8, 12)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(F.relu(self.stem(x))))))
        x = x.flatten(2).amax(-1)
        decoded = F.linear(torch.tanh(self.encode(x)), self.encode.weight.t())
        return self.fc(decoded + x)


@pattern(
    "Shared parameters",
    image(3, 10),
    {
        "stem": 8,  # the shared weight's inputs are its outputs; the decoder adds to them
        "encode": 12,
    },
)
def shared_weights() -> nn.Module:
    return SharedWeights()


class Functional(nn.Module):
    """Bare parameters and functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(0.3 * torch.randn(8, 3, 3, 3)), nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.gain = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.w2 = nn.Parameter(0.3 * torch.randn(12, 8, 3, 3))
        self.w3, self.b3 = nn.Parameter(0.3 * torch.randn(12, 16)), nn.Parameter(torch.zeros(16))
        self.w4 = nn.ParameterList([0.3 * torch.randn(10, 16)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.w1, self.b1, padding=1)
        x = F.relu(F.batch_norm(x, self.mean, self.var, training=False) * self.gain)
        x = F.max_pool2d(F.relu(F.conv2d(x, self.w2, stride=2)), 2)
        x = torch.addmm(self.b3, F.adaptive_avg_pool2d(x, 1).flatten(1), self.w3)
        return torch.relu(x) @ self.w4[0].t()


@pattern("Functional calls on parameters", image(3, 12), {"w1": 8, "w2": 12, "w3": 16})
def functional() -> nn.Module:
    return Functional()


class Einsum(nn.Module):
    """Products written as einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.mix = nn.Parameter(0.3 * torch.randn(12, 8))
        self.back = nn.Parameter(0.3 * torch.randn(12, 16))
        self.out = nn.Parameter(0.3 * torch.randn(10, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(torch.einsum("bchw,oc->bohw", F.relu(self.stem(x)), self.mix))
        x = F.relu(torch.einsum("bchw,cd->bdhw", x, self.back))
        return torch.einsum("...d,kd->...k", x.mean((2, 3)), self.out)


@pattern("einsum", image(3, 10), {"stem": 8, "mix": 12, "back": 16})
def einsum() -> nn.Module:
    return Einsum()


class TwoStreams(nn.Module):
    """An image and a vector in; a class, a box and a feature map out."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.vector = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8))
        self.deep = nn.Conv2d(8, 12, 3, padding=1)
        self.features = nn.Conv2d(12, 6, 1)
        self.classes, self.box = nn.Linear(12, 10), nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, picture: Tensor, vector: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.image(picture) * torch.sigmoid(self.vector(vector))[:, :, None, None]
        x = F.relu(self.deep(x))
        pooled = x.mean((2, 3))
        return self.classes(pooled), {"box": self.box(pooled), "features": self.features(x)}


@pattern(
    "Several inputs and outputs",
    lambda n, g: (torch.randn(n, 3, 10, 10, generator=g), torch.randn(n, 5, generator=g)),
    {
        "image.0": 8,  # multiplied by vector.2
        "vector.0": 12, "deep": 12, "box.0": 16,
    },
)  # fmt: skip
def two_streams() -> nn.Module:
    return TwoStreams()


class EarlyExit(nn.Module):
    """An output after every stage; the one in the middle is also read."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.heads = nn.ModuleList([nn.Linear(8, 6), nn.Linear(12, 6)])
        self.merge = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.stage1(x))
        first = self.heads[0](x.mean((2, 3)))
        x = F.relu(self.stage2(x))
        second = self.heads[1](x.mean((2, 3)))
        return [first, second, self.merge(torch.cat([first, second], 1))]


@pattern("Outputs that are read again", image(3, 10), {"stage1": 8, "stage2": 12, "merge.0": 8})
def early_exit() -> nn.Module:
    return EarlyExit()


@pattern(
    "channels_last",
    lambda n, g: torch.randn(n, 3, 16, 16, generator=g).contiguous(memory_format=torch.channels_last),
    {
        "conv1": 16, "layer1.0.conv1": 16, "layer1.1.conv1": 16,
        "layer2.0.conv2": 24, "layer2.0.conv1": 24, "layer2.1.conv1": 24,
    },
)  # fmt: skip
def channels_last() -> nn.Module:
    return resnet_basic().to(memory_format=torch.channels_last)


class LeNet(nn.Module):
    """The size of the flattened features stands in the code as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 8, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(8 * 4, 24), nn.Linear(24, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 8 * 4)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@pattern("LeNet with a literal size", image(1, 16), {"conv1": 6, "fc1": 24, "fc2": 16})  # conv2 must keep 8 channels
def lenet_literal() -> nn.Module:
    return LeNet()


class Siamese(nn.Module):
    """One network on two inputs; the pair is compared and concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12))
        self.compare = nn.Sequential(nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.embed(left), self.embed(right)
        return self.compare(torch.cat([torch.abs(a - b), a * b], dim=-1))


@pattern(
    "Siamese network",
    lambda n, g: (torch.randn(n, 6, generator=g), torch.randn(n, 6, generator=g)),
    {"embed.0": 16, "embed.2": 12, "compare.0": 10},
)
def siamese() -> nn.Module:
    return Siamese()


class Stacked(nn.Module):
    """`stack` and a sum over it instead of additions; learned weights of the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(6, 12) for _ in range(3))
        self.weights = nn.Parameter(torch.ones(3))
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([branch(x) for branch in self.branches], dim=1)
        return self.fc((stacked * self.weights.softmax(0)[None, :, None]).sum(1).relu())


@pattern("Stacked branches", gauss(6), {"branches.0": 12})
def stacked() -> nn.Module:
    return Stacked()
