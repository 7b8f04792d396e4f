"""Tiny models in float64, one per coupling pattern, that the laws are tested on.

A case builds its model and its inputs from fixed seeds. Widths are 2 to 8, batch norms have random statistics.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mipp
from mipp.plan.plan import PruningPlan
from mipp.report import Inspection
from mipp.zoo.resnets import CifarResNet

Inputs = Callable[[int, torch.Generator], object]
CORE = ("mipp", "random", "l1", "l2")  # methods that `prune` is tested with; all others: test_method_contract.py


class Net(nn.Module):
    """A module whose forward is a function of the module and its inputs."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


@dataclass(frozen=True)
class Case:
    """A model and how to call it.

    Attributes:
        prunable: Whether anything in it can be removed.
        counted: Whether `torch.utils.flop_counter` counts all of its MACs.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    prunable: bool = True
    counted: bool = True

    def model(self) -> nn.Module:
        """A fresh model in eval mode, the same in every call."""
        with torch.random.fork_rng():
            torch.manual_seed(11)
            model = self.build().double().eval()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    _randomise(module)
        return model

    def batch(self, samples: int = 3, seed: int = 0):
        """One input (a Tensor, a tuple of arguments, or a dict of keyword arguments)."""
        return self.inputs(samples, torch.Generator().manual_seed(seed))

    def batches(self, number: int = 3, samples: int = 8) -> list:
        """Calibration batches in the form (input, labels)."""
        return [(self.batch(samples, 100 + i), torch.zeros(samples)) for i in range(number)]

    def __str__(self) -> str:
        return self.name


@torch.no_grad()
def _randomise(norm) -> None:
    if norm.running_mean is not None:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    if norm.weight is not None:
        norm.weight.normal_().add_(torch.sign(norm.weight))
        norm.bias.normal_()


def call(model: nn.Module, batch):
    """Calls a model as the contract says: a dict is keywords, a tuple is arguments, a Tensor is the argument."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def tensors(output) -> list[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if is_dataclass(output):
        output = vars(output)
    if isinstance(output, Mapping):
        output = list(output.values())
    return [t for item in output for t in tensors(item)]


def outputs(model: nn.Module, batch) -> list[Tensor]:
    with torch.no_grad():
        return tensors(call(model, batch))


def assert_same(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-10) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        scale = float(b.abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * (scale + 1e-30))


@cache
def inspected(case: Case) -> tuple[nn.Module, Inspection]:
    """The model of a case and what `inspect` finds in it; tests must not change either."""
    model = case.model()
    return model, mipp.inspect(model, case.batch(2))


@cache
def pruned(case: Case) -> mipp.Result:
    """A case pruned and refitted by MIPP; tests must not change the model."""
    return mipp.prune(case.model(), case.batches(), mipp.Budget(nodes=0.7), progress=False)


def plan_for(case: Case, kept) -> PruningPlan:
    model, found = inspected(case)
    return PruningPlan.of(found.graph, model, kept)


@dataclass(frozen=True)
class Keep:
    """The method that keeps what it is told to."""

    kept: Mapping[str, tuple[int, ...]]

    def plan(self, task, budget):
        return task.plan(self.kept, self, budget)


CASES: list[Case] = []


def case(name: str, inputs: Inputs, **flags):
    def register(build):
        CASES.append(Case(name, build, inputs, **flags))
        return build

    return register


def named(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


def gauss(*shape: int) -> Inputs:
    return lambda n, g: torch.randn(n, *shape, generator=g, dtype=torch.float64)


def tokens(length: int, words: int) -> Inputs:
    return lambda n, g: torch.randint(words, (n, length), generator=g)


VECTOR, IMAGE = gauss(4), gauss(3, 6, 6)


# --- chains -----------------------------------------------------------------------------------------------------------


@case("linear chain", VECTOR)
def _():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


@case("conv bn relu chain", IMAGE)
def _():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Conv2d(5, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    )  # fmt: skip


@case("conv flatten linear", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 2))


@case("view with computed size", IMAGE)
def _():
    def forward(m, x):
        x = F.max_pool2d(F.relu(m.conv(x)), 2)
        return m.fc(x.view(x.size(0), -1))

    return Net(forward, conv=nn.Conv2d(3, 5, 3), fc=nn.Linear(20, 3))


@case("view with fixed size", IMAGE)
def _():
    def forward(m, x):
        return m.out(F.relu(m.fc(F.relu(m.conv(x)).view(-1, 64))))

    return Net(forward, conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(64, 5), out=nn.Linear(5, 2))


@case("average and global pool", IMAGE)
def _():
    def forward(m, x):
        x = F.avg_pool2d(F.relu(m.a(x)), 2)
        return m.fc(F.adaptive_avg_pool2d(F.relu(m.b(x)), 1).flatten(1))

    return Net(forward, a=nn.Conv2d(3, 5, 3), b=nn.Conv2d(5, 4, 1), fc=nn.Linear(4, 3))


@case("mean over positions", IMAGE)
def _():
    def forward(m, x):
        return m.fc(F.relu(m.conv(x)).mean(dim=(2, 3)))

    return Net(forward, conv=nn.Conv2d(3, 6, 3, dilation=2), fc=nn.Linear(6, 3))


@case("in-place relu", IMAGE)
def _():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3), nn.ReLU6(inplace=True),
        nn.Conv2d(4, 2, 1),
    )  # fmt: skip


@case("dropout", VECTOR)
def _():
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(6, 5),
        nn.Dropout(0.1),
        nn.Linear(5, 2),
    )


@case("batch norm without affine", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False), nn.ReLU(), nn.Conv2d(5, 3, 3))


@case("batch norm without running statistics", IMAGE)
def _():
    def forward(m, x):
        h = F.relu(m.bn1(m.a(x)))
        return m.out(F.relu(m.bn2(m.c(F.relu(m.b(h)))) + h))

    return Net(
        forward, a=nn.Conv2d(3, 5, 3), bn1=nn.BatchNorm2d(5, track_running_stats=False), b=nn.Conv2d(5, 4, 1),
        c=nn.Conv2d(4, 5, 1), bn2=nn.BatchNorm2d(5, track_running_stats=False), out=nn.Conv2d(5, 2, 1),
    )  # fmt: skip


@case("prelu per channel", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.PReLU(5), nn.Conv2d(5, 3, 3))


@case("conv1d", gauss(2, 9))
def _():
    return nn.Sequential(
        nn.Conv1d(2, 5, 3, padding="same"),
        nn.BatchNorm1d(5),
        nn.GELU(),
        nn.Conv1d(5, 4, 3),
        nn.SiLU(),
        nn.Conv1d(4, 2, 1),
    )


@case("conv3d", gauss(2, 4, 4, 4))
def _():
    return nn.Sequential(
        nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 3, 2), nn.ReLU(), nn.Conv3d(3, 2, 1)
    )


@case("reflected padding", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"))


@case("upsampling", IMAGE)
def _():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)
    )


@case("linear on sequences", gauss(5, 4))
def _():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


# --- streams ----------------------------------------------------------------------------------------------------------


@case("residual", IMAGE)
def _():
    def forward(m, x):
        x = F.relu(m.bn0(m.stem(x)))
        x = F.relu(m.bn2(m.b(F.relu(m.bn1(m.a(x))))) + x)
        return m.out(x)

    return Net(
        forward, stem=nn.Conv2d(3, 5, 3, bias=False), bn0=nn.BatchNorm2d(5), a=nn.Conv2d(5, 4, 3, padding=1,
        bias=False),
        bn1=nn.BatchNorm2d(4), b=nn.Conv2d(4, 5, 3, padding=1, bias=False), bn2=nn.BatchNorm2d(5),
        out=nn.Conv2d(5, 3, 1),
    )  # fmt: skip


@case("projection shortcut", IMAGE)
def _():
    def forward(m, x):
        x = F.relu(m.stem(x))
        x = F.relu(m.bn(m.b(F.relu(m.a(x)))) + m.norm(m.short(x)))
        return m.fc(x.mean((2, 3)))

    return Net(
        forward, stem=nn.Conv2d(3, 4, 3), a=nn.Conv2d(4, 5, 3, stride=2, padding=1), b=nn.Conv2d(5, 6, 3, padding=1),
        bn=nn.BatchNorm2d(6), short=nn.Conv2d(4, 6, 1, stride=2, bias=False), norm=nn.BatchNorm2d(6),
        fc=nn.Linear(6, 2),
    )  # fmt: skip


@case("zero-padded shortcut", IMAGE)
def _():
    def forward(m, x):
        x = F.relu(m.stem(x))
        x = F.relu(m.b(F.relu(m.a(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)))
        return m.fc(x.mean((2, 3)))

    return Net(
        forward, stem=nn.Conv2d(3, 4, 3), a=nn.Conv2d(4, 5, 3, stride=2, padding=1), b=nn.Conv2d(5, 7, 3, padding=1),
        fc=nn.Linear(7, 2),
    )  # fmt: skip


@case("cifar resnet", gauss(3, 8, 8))
def _():
    return CifarResNet(8, num_classes=3, widths=(3, 5, 8))


@case("three branches", IMAGE)
def _():
    def forward(m, x):
        return m.out(F.relu(m.a(x) + m.bn(m.b(x)) + m.c(x)))

    return Net(
        forward,
        a=nn.Conv2d(3, 5, 3),
        b=nn.Conv2d(3, 5, 3),
        bn=nn.BatchNorm2d(5),
        c=nn.Conv2d(3, 5, 3),
        out=nn.Conv2d(5, 2, 1),
    )


@case("concatenation", IMAGE)
def _():
    def forward(m, x):
        a = F.relu(m.a(x))
        b = F.relu(m.b(a))
        c = F.relu(m.c(m.bn(torch.cat([a, b], 1))))
        return m.out(torch.cat([a, b, c], 1))

    return Net(
        forward, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(4, 3, 3, padding=1), bn=nn.BatchNorm2d(7),
        c=nn.Conv2d(7, 4, 3, padding=1), out=nn.Conv2d(11, 2, 1),
    )  # fmt: skip


@case("concatenation with the input", IMAGE)
def _():
    def forward(m, x):
        return m.out(F.relu(m.b(torch.cat([x, F.relu(m.a(x))], 1))))

    return Net(forward, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(7, 5, 3), out=nn.Conv2d(5, 2, 1))


@case("linear norm over tokens", gauss(5, 5))
def _():
    def forward(m, x):
        h = m.stem(x)
        return m.out(F.relu(m.bn(m.b(F.relu(m.a(h)))) + h))

    return Net(
        forward, stem=nn.Linear(5, 5), a=nn.Linear(5, 4), b=nn.Linear(4, 5), bn=nn.BatchNorm1d(5), out=nn.Linear(5, 2)
    )  # the 5 channels of the norm are the tokens, not the outputs of b


@case("token norm of other length", gauss(3, 5))
def _():
    def forward(m, x):
        h = m.stem(x)
        return m.out(F.relu(m.bn(m.b(F.relu(m.a(h)))) + h))

    return Net(
        forward, stem=nn.Linear(5, 5), a=nn.Linear(5, 4), b=nn.Linear(4, 5), bn=nn.BatchNorm1d(3), out=nn.Linear(5, 2)
    )


# --- groups and gates -------------------------------------------------------------------------------------------------


@case("depthwise", IMAGE)
def _():
    return nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Conv2d(5, 3, 1),
    )  # fmt: skip


@case("depthwise behind a refitted layer", IMAGE)
def _():
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 5, 3, groups=5), nn.ReLU(),
        nn.Conv2d(5, 3, 1),
    )  # fmt: skip


@case("depthwise multiplier", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 3, 1))


@case("few groups", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 1))


@case("many groups", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 3, 1))


@case("grouped first layer", gauss(4, 6, 6))
def _():
    return nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


@case("channel shuffle", IMAGE)
def _():
    def forward(m, x):
        x = F.relu(m.a(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.c(F.relu(m.b(x)))

    return Net(forward, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 4, 3), c=nn.Conv2d(4, 2, 1))


@case("gated linear unit", VECTOR)
def _():
    def forward(m, x):
        value, gate = m.up(x).chunk(2, dim=-1)
        return m.down(value * torch.sigmoid(gate))

    return Net(forward, up=nn.Linear(4, 10), down=nn.Linear(5, 3))


@case("squeeze and excite", IMAGE)
def _():
    def forward(m, x):
        x = F.relu(m.conv(x))
        gate = torch.sigmoid(m.up(F.relu(m.down(x.mean((2, 3))))))
        return m.out(x * gate[:, :, None, None])

    return Net(forward, conv=nn.Conv2d(3, 6, 3), down=nn.Linear(6, 3), up=nn.Linear(3, 6), out=nn.Conv2d(6, 2, 1))


@case("linear on the last axis of an image", IMAGE)
def _():
    def forward(m, x):
        x = F.relu(m.a(x)).permute(0, 2, 3, 1)
        x = F.relu(m.mix(x)).permute(0, 3, 1, 2)
        return m.b(x)

    return Net(forward, a=nn.Conv2d(3, 4, 3), mix=nn.Linear(4, 5), b=nn.Conv2d(5, 2, 3))


# --- shared parameters ------------------------------------------------------------------------------------------------


@case("module used twice", VECTOR)
def _():
    def forward(m, x):
        x = F.relu(m.first(x))
        x = F.relu(m.again(x))
        return m.last(F.relu(m.again(x)))

    return Net(forward, first=nn.Linear(4, 5), again=nn.Linear(5, 5), last=nn.Linear(5, 2))


@case("reader used twice", VECTOR)
def _():
    def forward(m, x):
        return m.head(F.relu(m.a(x))) - m.head(F.tanh(m.b(x)))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(4, 5), head=nn.Linear(5, 2))


@case("tied weights", tokens(5, 7))
def _():
    def forward(m, x):
        h = m.embed(x)
        return m.head(m.down(F.relu(m.up(h))) + h)

    net = Net(
        forward, embed=nn.Embedding(7, 4), up=nn.Linear(4, 6), down=nn.Linear(6, 4), head=nn.Linear(4, 7, bias=False)
    )
    net.head.weight = net.embed.weight
    return net


@case("two parameters over one storage", VECTOR)
def _():
    def forward(m, x):
        return m.d(F.relu(m.c(F.relu(m.b(F.relu(m.a(x)))))))

    net = Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 5), c=nn.Linear(5, 5), d=nn.Linear(5, 2))
    net.double()  # a later conversion would break the sharing
    net.c.weight = nn.Parameter(net.b.weight.detach())
    return net


@case("functional calls", VECTOR)
def _():
    def forward(m, x):
        x = torch.relu(F.linear(x, m.w1, m.b1))
        return F.linear(torch.relu(F.linear(x, m.w2)), m.w3)

    parameters = {"w1": (6, 4), "b1": (6,), "w2": (5, 6), "w3": (2, 5)}
    return Net(forward, **{name: nn.Parameter(torch.randn(shape)) for name, shape in parameters.items()})


@case("shared batch norm", IMAGE)
def _():
    def forward(m, x):
        x = F.relu(m.bn(m.a(x)))
        return m.c(F.relu(m.bn(m.b(x))))

    return Net(
        forward, a=nn.Conv2d(3, 5, 3), b=nn.Conv2d(5, 5, 3, bias=False), bn=nn.BatchNorm2d(5), c=nn.Conv2d(5, 2, 1)
    )


@case("unused parameters", VECTOR)
def _():
    def forward(m, x):
        return m.b(F.relu(m.a(x)))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 2), idle=nn.Linear(5, 5), free=nn.Parameter(torch.randn(5)))


# --- forms of inputs and outputs --------------------------------------------------------------------------------------


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


@case("several inputs", lambda n, g: (gauss(4)(n, g), gauss(3)(n, g)))
def _():
    def forward(m, x, y):
        return m.out(F.relu(m.a(x) + m.b(y)))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(3, 5), out=nn.Linear(5, 2))


@case("dict input", lambda n, g: {"left": gauss(4)(n, g), "right": gauss(3)(n, g)})
def _():
    def forward(m, left, right):
        return m.out(torch.cat([F.relu(m.a(left)), F.relu(m.b(right))], -1))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(3, 4), out=nn.Linear(9, 2))


@case("tuple output", VECTOR)
def _():
    def forward(m, x):
        h = F.relu(m.b(F.relu(m.a(x))))
        return m.c(h), [h]

    return Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 2))


@case("dict output", VECTOR)
def _():
    def forward(m, x):
        h = F.relu(m.a(x))
        return {"class": m.c(h), "value": m.v(h)}

    return Net(forward, a=nn.Linear(4, 6), c=nn.Linear(6, 3), v=nn.Linear(6, 1))


@case("dataclass output", VECTOR)
def _():
    def forward(m, x):
        h = m.b(F.relu(m.a(x)))
        return Answer(m.c(F.relu(h)), h)

    return Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 2))


@case("embedding", tokens(5, 7))
def _():
    def forward(m, x):
        return m.out(F.relu(m.fc(m.embed(x))).mean(1))

    return Net(forward, embed=nn.Embedding(7, 6), fc=nn.Linear(6, 5), out=nn.Linear(5, 2))


@case("class token", gauss(4, 3))
def _():
    def forward(m, x):
        x = m.stem(x)
        x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.places
        return m.out(F.relu(m.mlp(x))[:, 0])

    return Net(
        forward, stem=nn.Linear(3, 5), token=nn.Parameter(torch.randn(1, 1, 5)),
        places=nn.Parameter(torch.randn(1, 5, 5)),
        mlp=nn.Linear(5, 6), out=nn.Linear(6, 2),
    )  # fmt: skip


# --- operands of which only the shape or the type is read -------------------------------------------------------------


@case("type and device of another tensor", VECTOR)
def _():
    def forward(m, x):
        a, b = F.relu(m.a(x)), F.relu(m.b(x))
        return m.c(a.type_as(b)) + m.d(b.to(a)) * a.new_ones(len(a), 1)

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(4, 6), c=nn.Linear(5, 2), d=nn.Linear(6, 2))


@case("sizes of another tensor", gauss(5, 4))
def _():
    def forward(m, x):
        a, b = F.relu(m.a(x)), F.relu(m.b(x))
        gate = b.mean(-1, keepdim=True).expand_as(a).sigmoid()
        return m.c(a.flatten(1).softmax(-1).view_as(a) * gate) + m.d(b)

    return Net(forward, a=nn.Linear(4, 6), b=nn.Linear(4, 5), c=nn.Linear(6, 2), d=nn.Linear(5, 2))


@case("positions counted on a slice", gauss(5, 4))
def _():
    def forward(m, x):
        h = m.stem(x)
        counted = torch.arange(h[:, :, -1].shape[1]), torch.arange(h[..., 2].transpose(0, 1).shape[0])
        return m.out(F.relu(m.norm(h + m.first(counted[0]) + m.second(counted[1]))))

    return Net(
        forward, stem=nn.Linear(4, 6), first=nn.Embedding(7, 6), second=nn.Embedding(5, 6), norm=nn.LayerNorm(6),
        out=nn.Linear(6, 2),
    )  # fmt: skip


@case("parameters read by the loss only", VECTOR)
def _():
    def forward(m, x):
        return m.b(F.relu(m.a(x)))

    parts = {"mask_token": (1, 5), "prototypes": (3, 5), "gains": (5,), "temperature": ()}
    parameters = {name: nn.Parameter(torch.randn(shape)) for name, shape in parts.items()}
    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 2), **parameters)


# --- heads that meet parameters ---------------------------------------------------------------------------------------


@case("graph attention", gauss(5, 3), counted=False)
def _():
    def forward(m, x):
        h = m.w(x).view(len(x), 5, -1, 2)
        scores = (h * m.source).sum(-1)[:, :, None] + (h * m.target).sum(-1)[:, None]
        mixed = torch.einsum("bnmh,bmhd->bnhd", F.leaky_relu(scores, 0.2).softmax(2), h)
        return m.out(F.elu(mixed.flatten(2) + m.bias))

    return Net(
        forward, w=nn.Linear(3, 6, bias=False), source=nn.Parameter(torch.randn(1, 1, 3, 2)),
        target=nn.Parameter(torch.randn(3, 2)), bias=nn.Parameter(torch.randn(6)), out=nn.Linear(6, 2),
    )  # fmt: skip


@case("biases of heads on either side of a transpose", gauss(5, 4), counted=False)
def _():
    def forward(m, x):
        q, k, v = (layer(x).view(len(x), 5, -1, 2) for layer in (m.q, m.k, m.v))
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        scores = (q + m.u).transpose(1, 2) @ k.mT + (q.transpose(1, 2) + m.c) @ (k * m.s).mT
        return m.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    parts = {"u": (3, 2), "c": (3, 1, 2), "s": (1, 3, 1, 1)}
    parameters = {name: nn.Parameter(torch.randn(shape)) for name, shape in parts.items()}
    layers = {name: nn.Linear(4, 6) for name in "qkv"}
    return Net(forward, **layers, **parameters, out=nn.Linear(6, 2))


def packed_attention(split, *order):
    """Attention of 3 heads of width 2 whose queries, keys and values are packed in some order of these."""
    sizes = {"h": 3, "p": 3, "w": 2}

    def forward(m, x):
        q, k, v = split(m, m.qkv(x).view(len(x), 5, *(sizes[axis] if axis != "h" else m.heads for axis in order)))
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = Net(forward, qkv=nn.Linear(4, 18), out=nn.Linear(6, 2))
    net.heads = 3
    return net


@case("packed by head", gauss(5, 4), counted=False)
def _():
    return packed_attention(lambda m, x: (x.select(3, i).transpose(1, 2) for i in range(3)), "h", "p", "w")


@case("packed by width", gauss(5, 4), counted=False)
def _():
    return packed_attention(lambda m, x: (t.transpose(1, 2) for t in x.unbind(-1)), "h", "w", "p")


@case("packed by part and sliced", gauss(5, 4), counted=False)
def _():
    return packed_attention(lambda m, x: (x[:, :, i : i + 1].flatten(2, 3).transpose(1, 2) for i in range(3)), *"phw")


@case("packed by head and chunked", gauss(5, 4), counted=False)
def _():
    def split(m, x):
        return (t.squeeze(3).transpose(1, 2) for t in x.split(1, 3))

    return packed_attention(split, *"hpw")


@case("scores by baddbmm", gauss(5, 4), counted=False)
def _():
    def forward(m, x):
        q, k, v = (layer(x).view(len(x), 5, -1, 2).transpose(1, 2).flatten(0, 1) for layer in (m.q, m.k, m.v))
        slopes = m.slopes.view(1, -1, 1, 1).repeat(len(x), 1, 1, 1).flatten(0, 1)
        scores = (slopes * torch.arange(5)).baddbmm(q, k.mT, alpha=0.5)
        return m.out((scores.softmax(-1) @ v).unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2))

    net = Net(forward, q=nn.Linear(4, 6), k=nn.Linear(4, 6), v=nn.Linear(4, 6), out=nn.Linear(6, 2))
    net.register_buffer("slopes", torch.tensor([1.0, 0.5, 0.25]))
    return net


# --- positions chosen by indices --------------------------------------------------------------------------------------


@case("messages by scatter", gauss(5, 3), counted=False)
def _():
    def forward(m, x):
        source, target = m.edges
        h = F.relu(m.a(x))
        sent = h[:, source]
        places = target.view(1, -1, 1).expand_as(sent)
        total = sent.new_zeros(len(x), 5, sent.shape[2]).scatter_add(1, places, sent)
        most = torch.zeros_like(h).scatter_reduce(1, places, sent, "amax")
        return m.b(F.relu(total)) + m.c(most.index_add(1, target, sent))

    net = Net(forward, a=nn.Linear(3, 6), b=nn.Linear(6, 2), c=nn.Linear(6, 2))
    net.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 3]]))
    return net


@case("tokens gathered and repeated", gauss(5, 3), counted=False)
def _():
    def forward(m, x):
        h = F.relu(m.a(x))
        best = x[..., 0].topk(3, dim=1).indices
        h = h.gather(1, best[..., None].expand(-1, -1, h.shape[2]))
        return m.b(h.repeat_interleave(m.counts, dim=1))

    net = Net(forward, a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    net.register_buffer("counts", torch.tensor([2, 0, 1]))
    return net


# --- what must be frozen ----------------------------------------------------------------------------------------------


@case("unknown op", VECTOR)
def _():
    def forward(m, x):
        x = torch.fft.rfft(m.a(x)).abs()
        return m.c(F.relu(m.b(x)))

    return Net(forward, a=nn.Linear(4, 6), b=nn.Linear(4, 5), c=nn.Linear(5, 2))


@case("branch on values", lambda n, g: gauss(4)(n, g).abs())
def _():
    def forward(m, x):
        h = m.a(x)
        h = torch.relu(h) if x.sum() > 0 else torch.tanh(h)
        return m.b(h)

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 2))


@case("scale taken from the data", VECTOR)
def _():
    def forward(m, x):
        return m.b(F.relu(m.a(x / x.abs().max().item())))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 2))


@case("index_select over positions", gauss(4, 3))
def _():
    def forward(m, x):
        h = F.relu(m.a(x))
        return m.b(h.index_select(1, m.index))

    net = Net(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 2))
    net.register_buffer("index", torch.tensor([2, 0]))
    return net


@case("index_select over channels", VECTOR, prunable=False)
def _():
    def forward(m, x):
        return m.b(m.a(x).index_select(1, m.index))

    net = Net(forward, a=nn.Linear(4, 5), b=nn.Linear(3, 2))
    net.register_buffer("index", torch.tensor([2, 0, 4]))
    return net


@case("softmax over channels", VECTOR)
def _():
    def forward(m, x):
        return m.c(F.relu(m.b(m.a(x).softmax(-1))))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 4), c=nn.Linear(4, 2))


@case("layer norm", gauss(3, 4))
def _():
    def forward(m, x):
        h = m.stem(x)
        return m.out(m.norm(h + m.down(F.gelu(m.up(h)))))

    return Net(
        forward,
        stem=nn.Linear(4, 5),
        up=nn.Linear(5, 6),
        down=nn.Linear(6, 5),
        norm=nn.LayerNorm(5),
        out=nn.Linear(5, 2),
    )


@case("transformer layer", gauss(5, 4), counted=False)
def _():
    return nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), nn.Linear(4, 2))


@case("max over neighbouring channels", IMAGE)
def _():
    def forward(m, x):
        x = F.max_pool3d(m.a(x), (2, 1, 1))
        return m.c(F.relu(m.b(x)))

    return Net(forward, a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(4, 2, 1))


@case("local response norm", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(3), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


@case("pixel shuffle", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


class LiteralGroups(nn.Module):
    """A depthwise convolution that has its number of groups in the code."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, groups=4)


@case("groups fixed in the code", IMAGE)
def _():
    return nn.Sequential(nn.Conv2d(3, 4, 1), LiteralGroups(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))


@case("fixed slice", VECTOR)
def _():
    def forward(m, x):
        h = m.a(x)
        return m.c(F.relu(m.b(torch.relu(h[:, :2] + h[:, 2:4]))))

    return Net(forward, a=nn.Linear(4, 4), b=nn.Linear(2, 4), c=nn.Linear(4, 2))


class StackedExperts(nn.Module):
    """Expert networks whose weights are stacked, and read by no layer that can be observed."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 6)), nn.Parameter(torch.randn(3, 6, 2))

    def forward(self, x):
        return torch.einsum("neh,ehd->nd", F.relu(torch.einsum("nd,edh->neh", x, self.up)), self.down)


@case("stacked experts", VECTOR, counted=False)
def _():
    return StackedExperts()


# --- widths that the code takes for one -------------------------------------------------------------------------------


@case("sequence reduction", gauss(3, 4, 4))
def _():
    def forward(m, x):
        y = m.norm(m.embed(x).flatten(2).transpose(1, 2))
        n, _, c = y.shape
        z = m.reduce(y.transpose(1, 2).reshape(n, c, 4, 4)).reshape(n, c, -1).transpose(1, 2)
        return m.out(y + m.back(F.relu(m.key(m.norm2(z)).mean(1, keepdim=True))))

    return Net(
        forward, embed=nn.Conv2d(3, 6, 1), norm=nn.LayerNorm(6), reduce=nn.Conv2d(6, 6, 2, 2), norm2=nn.LayerNorm(6),
        key=nn.Linear(6, 5), back=nn.Linear(5, 6), out=nn.Linear(6, 2),
    )  # fmt: skip


@case("one attribute for the heads of two layers", VECTOR)
def _():
    def forward(m, x):
        a = m.a(x).view(len(x), m.heads, 2).softmax(-1).flatten(1)
        b = m.b(x).view(len(x), m.heads, 2).softmax(-1).flatten(1)
        return m.p(a) - m.q(b)

    return Net(forward, a=nn.Linear(4, 8), b=nn.Linear(4, 8), p=nn.Linear(8, 2), q=nn.Linear(8, 2), heads=4)


@case("ones of another layer's width", VECTOR)
def _():
    def forward(m, x):
        a = F.relu(m.a(x))
        return m.p(a) + m.q(F.relu(m.b(x) + torch.ones(len(x), a.shape[1], dtype=x.dtype)))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(4, 5), p=nn.Linear(5, 2), q=nn.Linear(5, 2))


# --- weights that are computed ----------------------------------------------------------------------------------------


class Quantized(nn.Module):
    """A layer whose weight is rounded, in training that knows of it: one scale for all, or one for every output."""

    def __init__(self, layer, *, per_channel):
        super().__init__()
        self.layer, self.per_channel = layer, per_channel
        number = len(layer.weight) if per_channel else 1
        self.register_buffer("scale", torch.rand(number) / 10 + 0.1)
        self.register_buffer("zero", torch.zeros(number, dtype=torch.int32))

    def forward(self, x):
        weight, scale = self.layer.weight.float(), self.scale.float()
        if self.per_channel:
            weight = torch.fake_quantize_per_channel_affine(weight, scale, self.zero, 0, -128, 127)
        else:
            weight = torch.fake_quantize_per_tensor_affine(weight, scale, self.zero, -128, 127)
        return F.conv2d(x, weight.to(x.dtype), self.layer.bias, padding=1)


@case("rounded weights", IMAGE)
def _():
    return nn.Sequential(
        Quantized(nn.Conv2d(3, 5, 3), per_channel=False), nn.ReLU(), Quantized(nn.Conv2d(5, 4, 3), per_channel=True),
        nn.ReLU(), Quantized(nn.Conv2d(4, 2, 3), per_channel=False),
    )  # fmt: skip


class Modulated(nn.Module):
    """A convolution whose inputs are scaled, and outputs normalised, for each sample by itself (StyleGAN2)."""

    def __init__(self, inputs, outputs, *, weight_first=True):
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(outputs, inputs, 3, 3)), nn.Linear(4, inputs)
        self.weight_first = weight_first

    def forward(self, x, z):
        n, c, h, w = x.shape
        style = self.style(z).view(n, 1, c, 1, 1)
        weight = self.weight[None] * style if self.weight_first else style * self.weight[None]
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-3)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight.reshape(-1, c, 3, 3), padding=1, groups=n)
        return y.reshape(n, -1, h, w)


@case("weights for each sample", VECTOR, counted=False)
def _():
    def forward(m, z):
        y = F.leaky_relu(m.a(m.start.expand(len(z), -1, -1, -1), z))
        return m.c(F.leaky_relu(m.b(y, z)), z)

    return Net(
        forward, start=nn.Parameter(torch.randn(1, 6, 3, 3)), a=Modulated(6, 5),
        b=Modulated(5, 4, weight_first=False), c=Modulated(4, 2),
    )  # fmt: skip


class Mixed(nn.Module):
    """Kernels mixed for each sample by its own weights of attention (CondConv, dynamic convolution)."""

    def __init__(self, inputs, outputs, number=3):
        super().__init__()
        self.weight, self.route = nn.Parameter(torch.randn(number, outputs, inputs, 1, 1)), nn.Linear(inputs, number)

    def forward(self, x):
        n, c, h, w = x.shape
        shares = torch.softmax(self.route(x.mean((2, 3))), 1)
        weight = (shares[:, :, None, None, None, None] * self.weight[None]).sum(1)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight.flatten(0, 1), groups=n)
        return y.view(n, -1, h, w)


@case("kernels mixed for each sample", IMAGE, counted=False)
def _():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), Mixed(5, 4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def _normed(layer, dim):
    return nn.utils.parametrizations.weight_norm(layer, dim=dim)


@case("weight norm on a grouped convolution of the stream", gauss(3, 9))
def _():
    def forward(m, x):
        x = m.stem(x)
        return m.out(x + F.gelu(m.places(x)))

    return Net(
        forward, stem=nn.Conv1d(3, 8, 1), places=_normed(nn.Conv1d(8, 8, 3, padding=1, groups=2), 2),
        out=nn.Conv1d(8, 2, 1),
    )  # fmt: skip


@case("weight norm on grouped and depthwise convolutions", IMAGE)
def _():
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), _normed(nn.Conv2d(8, 8, 3, padding=1, groups=8), 0), nn.ReLU(),
        _normed(nn.Conv2d(8, 8, 1, groups=2), 0), nn.ReLU(), nn.Conv2d(8, 2, 1),
    )  # fmt: skip


# --- functions of single inputs ---------------------------------------------------------------------------------------


class Splines(nn.Module):
    """A layer of Kolmogorov-Arnold networks: a function of every input for every output, with a scale of its own."""

    def __init__(self, inputs, outputs, number=3):
        super().__init__()
        self.base, self.spline = (nn.Parameter(torch.randn(outputs, inputs, *n)) for n in ((), (number,)))
        self.scale = nn.Parameter(torch.randn(outputs, inputs))
        self.register_buffer("grid", torch.linspace(-1, 1, number))

    def forward(self, x):
        bumps = torch.exp(-((x[..., None] - self.grid) ** 2))
        spline = F.linear(bumps.view(len(x), -1), (self.spline * self.scale[..., None]).view(len(self.spline), -1))
        return F.linear(F.silu(x), self.base) + spline


@case("splines with a scale for each", VECTOR)
def _():
    return nn.Sequential(Splines(4, 6), Splines(6, 5), Splines(5, 2))


@case("linear layers on radial bumps", VECTOR)
def _():
    def forward(m, x):
        for layer in m.layers:
            x = layer(torch.exp(-((x[..., None] - m.grid) ** 2)).flatten(1))
        return x

    layers = nn.ModuleList([nn.Linear(12, 6), nn.Linear(18, 5), nn.Linear(15, 2)])
    net = Net(forward, layers=layers)
    net.register_buffer("grid", torch.linspace(-1, 1, 3))
    return net


@case("polynomials of every input", VECTOR, counted=False)
def _():
    def forward(m, x):
        for weight in m.weights:
            x = torch.einsum("bid,iod->bo", torch.tanh(x)[..., None] ** m.degrees, weight)
        return x

    sizes = [(4, 6, 3), (6, 5, 3), (5, 2, 3)]
    net = Net(forward, weights=nn.ParameterList([nn.Parameter(torch.randn(s)) for s in sizes]))
    net.register_buffer("degrees", torch.arange(1.0, 4.0))
    return net


@case("gates between the values", VECTOR)
def _():
    def forward(m, x):
        h = m.up(x)
        return m.down(h[:, ::2] * torch.sigmoid(h[:, 1::2]))

    return Net(forward, up=nn.Linear(4, 10), down=nn.Linear(5, 3))


@case("every third position", VECTOR)
def _():
    return Net(lambda m, x: m.down(F.relu(m.up(x))[:, 1::3]), up=nn.Linear(4, 12), down=nn.Linear(4, 3))


@case("powers in place", VECTOR)
def _():
    return Net(lambda m, x: m.b((m.a(x).square() + 1).pow_(-0.5)), a=nn.Linear(4, 5), b=nn.Linear(5, 2))


# --- single outputs ---------------------------------------------------------------------------------------------------


@case("single outputs", VECTOR)
def _():
    def forward(m, x):
        return m.out(F.relu(m.a(x)) * torch.sigmoid(m.gate(x)))

    return Net(forward, a=nn.Linear(4, 5), gate=nn.Linear(4, 1), out=nn.Linear(5, 1))


@case("weights that pass through an unknown op", VECTOR)
def _():
    def forward(m, x):
        return m.c(F.relu(m.b(F.linear(x, torch.linalg.qr(m.a.weight)[0], m.a.bias))))

    return Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 5), c=nn.Linear(5, 2))


PRUNABLE = [c for c in CASES if c.prunable]


def one_in(number: int, cases: Sequence[Any]) -> list[Any]:
    """The cases as parameters, of which `make test` runs each `number`-th, and `make test-all` all."""
    return [c if i % number == 0 else pytest.param(c, marks=pytest.mark.slow) for i, c in enumerate(cases)]
