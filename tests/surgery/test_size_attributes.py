"""Sizes that the code computes from attributes: of heads, of those beside others, of settings that modules share."""

from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from cases import Net, assert_same
from networks import halve, normal
from torch import Tensor, nn

import mipp


@dataclass(frozen=True)
class Settings:
    """Settings that every layer of a model reads."""

    heads: int = 4
    groups: int = 2
    width: int = 8
    layers: int = 2


class Packed(nn.Module):
    """Queries, keys and values of one projection, sliced by sizes computed from settings that all layers share."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(12, (config.heads + 2 * config.groups) * config.width)
        self.out = nn.Linear(config.heads * config.width, 12)

    def forward(self, x: Tensor) -> Tensor:
        c, packed = self.config, self.qkv(x)
        ends = c.heads * c.width, (c.heads + c.groups) * c.width
        parts = packed[..., : ends[0]], packed[..., ends[0] : ends[1]], packed[..., ends[1] :]
        q, k, v = (part.view(*x.shape[:2], -1, c.width).transpose(1, 2) for part in parts)
        times = q.shape[1] // k.shape[1]
        heads = F.scaled_dot_product_attention(q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1))
        return self.out(heads.transpose(1, 2).flatten(2))


class OneOfKeys(nn.Module):
    """One head of keys and one of values beside those of queries; `take` says how they are read."""

    def __init__(self, take, heads: int = 4, width: int = 8) -> None:
        super().__init__()
        self.take, self.heads, self.width = take, heads, width
        self.qkv, self.out = nn.Linear(12, (heads + 2) * width), nn.Linear(heads * width, 12)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.qkv(x).view(*x.shape[:2], self.heads + 2, self.width)
        q, k, v = (part.transpose(1, 2) for part in self.take(packed))
        attention = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.out(attention.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.width))


TAKES = {
    "lists of numbers": lambda p: (p[..., :-2, :], p[..., [-2], :], p[..., [-1], :]),
    "numbers": lambda p: (p[:, :, :-2], p[:, :, -2].unsqueeze(2), p[:, :, -1].unsqueeze(2)),
    "keys first": lambda p: (p[:, :, 2:], p[:, :, 0].unsqueeze(2), p[:, :, 1].unsqueeze(2)),
    "slices": lambda p: (p[:, :, :-2], p[:, :, -2:-1], p[:, :, -1:]),
}


class Layers(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Kind(Enum):
    """Settings that refuse to be watched."""

    SMALL = 1


def assert_cut_and_saved(model: nn.Module, result: mipp.Result, folder) -> None:
    x = normal(3, 5, 12, seed=7)
    model.requires_grad_(False)
    assert_same(mipp.apply(result.plan, model.double())(x.double()), mipp.mask(result.plan, model)(x.double()))
    result.save(folder)
    assert torch.equal(mipp.load(folder, model.float())(x), result.model(x))


@pytest.mark.parametrize("kind", [SimpleNamespace, Settings])
def test_settings_that_layers_share_follow_each_layer_by_itself(kind, tmp_path):
    config = kind(**vars(Settings()))
    model = Layers(Packed(config), Packed(config)).eval()
    result = halve(model, [normal(16, 5, 12, seed=seed) for seed in range(3)])
    assert {result.plan.groups[f"layers.{number}.qkv"].size for number in (0, 1)} == {2}
    assert config == kind(**vars(Settings()))
    assert_cut_and_saved(model, result, tmp_path / "saved")


def test_settings_that_cannot_be_watched_are_all_taken_as_read():
    model = Layers(Packed(Settings()), Packed(Settings())).eval()
    model.layers[0].kind = Kind.SMALL
    assert mipp.inspect(model, normal(2, 5, 12)).groups["layers.0.qkv"].size == 2
    assert model.layers[0].kind is Kind.SMALL


@pytest.mark.parametrize("take", TAKES)
def test_heads_beside_those_that_are_taken_by_number_are_nodes(take, tmp_path):
    model = Layers(OneOfKeys(TAKES[take])).eval()
    result = halve(model, [normal(16, 5, 12, seed=seed) for seed in range(3)])
    assert result.plan.groups["layers.0.qkv"].size == 4
    assert len(result.plan.kept["layers.0.qkv"]) < 4
    assert_cut_and_saved(model, result, tmp_path / "saved")


def test_a_stream_that_another_size_is_computed_from_stays_for_the_line_that_says_so():
    def forward(m, x):
        y = m.a(x).relu()
        windows = y.view(len(x), 2, 3, y.shape[-1]).transpose(1, 2).reshape(len(x), 6, y.shape[-1])
        heads = m.b(windows).reshape(len(x), 6, 4, windows.shape[-1] // 4)  # the width of the stream, in heads of b
        return m.c(windows + m.d(heads.softmax(2).flatten(2)))

    layers = {"a": nn.Linear(5, 16), "b": nn.Linear(16, 16), "c": nn.Linear(16, 3), "d": nn.Linear(16, 16)}
    found = mipp.inspect(Net(forward, **layers), normal(2, 6, 5))
    reason = next(line for line in found.frozen if line.name == "a")
    line = forward.__code__.co_firstlineno + 3
    assert reason.op == "reshape"
    assert reason.source == f"test_size_attributes.py:{line}"


def test_heads_of_which_a_part_is_turned_in_pairs_are_nodes():
    def turned(t):
        still, pairs = t.split([4, 4], -1)
        even, odd = pairs[..., 0::2], pairs[..., 1::2]
        angle = torch.arange(5, dtype=t.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=t.dtype)
        return torch.cat([still, even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], -1)

    def forward(m, x):
        q, k, v = (layer(x).view(len(x), 5, -1, 8).transpose(1, 2) for layer in (m.q, m.k, m.v))
        heads = F.scaled_dot_product_attention(turned(q), turned(k), v)
        return m.o(heads.transpose(1, 2).flatten(2))

    layers = {"q": nn.Linear(12, 32), "k": nn.Linear(12, 32), "v": nn.Linear(12, 32), "o": nn.Linear(32, 3)}
    found = mipp.inspect(Net(forward, **layers).eval(), normal(2, 5, 12))
    assert found.groups["q"].size == 4
    assert set(found.groups["q"].producers) == {"q", "k", "v"}
