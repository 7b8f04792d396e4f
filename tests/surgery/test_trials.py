"""Trial cuts settle what the sizes in the code leave open: heads that fill a stream, lines at which a cut fails."""

import pytest
import torch
import torch.nn.functional as F
from benchmarks.zoo.checks import cut_equals_masked, random_plan
from cases import Net
from networks import halve, normal
from torch import Tensor, nn

import mipp
from mipp.data.calibration import as_call


class Attention(nn.Module):
    """Takes the width of a head, and of all heads, from the stream that it reads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class OnMaps(nn.Module):
    """Attention on maps: the width of a head is an attribute, that of all heads the number of channels."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.qkv, self.proj = nn.Conv1d(dim, 2 * dim, 1), nn.Conv1d(dim, dim, 1)
        self.places = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT
        n, channels, length = x.shape
        packed = self.qkv(x).view(n, self.heads, 2 * self.width, length)
        q, k, v = packed.split([self.width // 2, self.width // 2, self.width], 2)
        mixed = (v @ (q.mT @ k).softmax(-1).mT).view(n, channels, length)
        return self.proj(mixed + self.places(v.reshape(n, channels, length))).mT


class Reduced(Attention):
    """Keys and values of a shorter sequence: its width is written into a reshape, too."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.reduce, self.norm = nn.Conv1d(dim, dim, 2, 2), nn.LayerNorm(dim)
        self.q, self.qkv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        shorter = self.reduce(x.mT.reshape(n, width, length)).reshape(n, width, -1).mT
        packed = self.qkv(self.norm(shorter)).reshape(n, -1, 2, self.num_heads, width // self.num_heads)
        k, v = packed.permute(2, 0, 3, 1, 4)
        q = self.q(x).reshape(n, length, self.num_heads, width // self.num_heads).transpose(1, 2)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class Stack(nn.Module):
    """A stream of 16 channels with blocks of attention."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(5, 16), nn.ModuleList(blocks), nn.Linear(16, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(x)


# blocks: the number of nodes of the stream
STACKS = {
    "heads of a width from the stream": (lambda: [Attention(16, 4), Attention(16, 4)], 4),
    "blocks of other numbers of heads": (lambda: [Attention(16, 4), Attention(16, 2), Attention(16, 8)], 2),
    "attention on maps": (lambda: [OnMaps(16, 4), OnMaps(16, 2)], 2),
    "a sequence that is reduced": (lambda: [Reduced(16, 4), Attention(16, 4)], 4),
}


@pytest.mark.parametrize("name", STACKS)
def test_heads_go_with_as_many_channels_of_the_stream_as_they_are_wide(name, tmp_path):
    torch.manual_seed(0)
    blocks, nodes = STACKS[name]
    net = Stack(*blocks()).eval()
    x = normal(2, 6, 5)
    found = mipp.inspect(net, x)
    assert {name: group.size for name, group in found.groups.items()} == {"stem": nodes}
    assert {f.name for f in found.frozen} == {"head"}
    assert {s.positions.size for s in found.groups["stem"].slices if s.tensor == "stem.weight"} == {16}
    double = Stack(*blocks()).double().eval()
    cut_equals_masked(random_plan(found.graph, double), double, as_call(x.double()))
    result = halve(net, [normal(16, 6, 5, seed=seed) for seed in range(3)])
    assert result.model.blocks[0].proj.in_features < 16 if name != "attention on maps" else True
    result.save(tmp_path / "saved")
    assert torch.equal(mipp.load(tmp_path / "saved", net)(x), result.model.eval()(x))


def test_heads_that_hardly_change_the_outputs_are_counted_right():
    """As in a network at its start, whose attention is all but an average: float32 shows no miscount."""
    torch.manual_seed(0)
    net = Stack(Attention(16, 4), Attention(16, 4)).eval()
    for block in net.blocks:
        nn.init.normal_(block.qkv.weight, std=1e-3)
    found = mipp.inspect(net, normal(2, 6, 5))
    assert found.groups["stem"].size == 4
    assert {key for key in found.graph.attributes if key[1] == "num_heads"} == {
        (f"blocks.{number}", "num_heads") for number in (0, 1)
    }


def test_two_streams_of_one_width_each_have_their_own_heads():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = Stack(Attention(16, 4)), Stack(Attention(16, 2))

        def forward(self, x):
            return self.left(x) + self.right(x)

    found = mipp.inspect(Both(), normal(2, 6, 5))
    assert {name: group.size for name, group in found.groups.items()} == {"left.stem": 4, "right.stem": 2}


def test_a_stream_from_whose_width_another_is_computed_stays_for_the_line_that_fails():
    def forward(m, x):
        x = m.stem(x)
        heads = m.a(x).view(*x.shape[:2], 8, x.shape[2] // 4)
        return m.head(x + m.b(heads.softmax(2).flatten(2)))

    layers = {"stem": nn.Linear(5, 16), "a": nn.Linear(16, 32), "b": nn.Linear(32, 16), "head": nn.Linear(16, 3)}
    found = mipp.inspect(Net(forward, **layers), normal(2, 6, 5))
    assert not found.groups
    reason = next(f for f in found.frozen if f.name == "stem")
    assert (reason.op, reason.source) == ("view", f"test_trials.py:{forward.__code__.co_firstlineno + 2}")


class Checked(nn.Module):
    """A layer that compares what it is given with a size that it holds, as a model of several stages does."""

    def __init__(self, dim: int, check) -> None:
        super().__init__()
        self.dim, self.check, self.up, self.down = dim, check, nn.Linear(dim, 6), nn.Linear(6, dim)

    def forward(self, x: Tensor) -> Tensor:
        self.check(self, x)
        return x + self.down(F.relu(self.up(x)))


def by_assertion(layer, x):
    assert x.shape[-1] == layer.dim, "expected another width"


def by_error(layer, x):
    if layer.dim != x.size(2):
        raise ValueError(f"Expected {layer.dim} features")


def against_a_number(layer, x):
    if x.shape[-1] != 16:
        raise ValueError("Expected 16 features")


@pytest.mark.parametrize("check", [by_assertion, by_error])
def test_a_size_that_layers_compare_with_what_they_are_given_follows_the_stream(check, tmp_path):
    torch.manual_seed(0)
    net = Stack(Attention(16, 4), Checked(16, check), Checked(16, check)).eval()
    x = normal(2, 6, 5)
    found = mipp.inspect(net, x)
    expected = {"stem": 4, "blocks.1.up": 6, "blocks.2.up": 6}
    assert {name: group.size for name, group in found.groups.items()} == expected
    result = halve(net, [normal(16, 6, 5, seed=seed) for seed in range(3)])
    small = result.model.eval()
    assert {block.dim for block in small.blocks[1:]} == {small.stem.out_features}
    result.save(tmp_path / "saved")
    assert torch.equal(mipp.load(tmp_path / "saved", net)(x), small(x))


def test_a_stream_that_is_compared_with_a_number_in_the_code_stays_and_names_the_line():
    net = Stack(Checked(16, against_a_number))
    found = mipp.inspect(net, normal(2, 6, 5))
    assert list(found.groups) == ["blocks.0.up"]
    assert {f.name for f in found.frozen} == {"stem", "blocks.0.down", "head"}


def test_a_size_that_is_compared_follows_where_nothing_else_is_in_doubt():
    """The first trial finds it, and there is no second: `nn.Transformer` compares its inputs with `d_model`."""
    torch.manual_seed(0)
    net = Net(
        lambda m, x: m.head(m.body(m.embed(x), m.embed(x))),
        embed=nn.Linear(5, 16),
        body=nn.Transformer(16, 4, 1, 1, 24, batch_first=True),
        head=nn.Linear(16, 3),
    ).eval()
    x = normal(2, 6, 5)
    found = mipp.inspect(net, x)
    assert found.groups["embed"].size == 16
    assert ("body", "d_model") in found.graph.attributes
    double = net.double()
    for seed in range(3):
        cut_equals_masked(random_plan(found.graph, double, seed), double, as_call(x.double()))


def test_layers_that_write_into_parts_of_one_tensor_stay_where_the_code_fixes_its_size():
    """A trial of multiples joins their groups, so that one of the names is gone."""

    def forward(m, x):
        whole = x.new_zeros(len(x), 64)
        whole[:, :32], whole[:, 32:] = m.first(x), m.second(x)
        return m.head(whole)

    net = Net(forward, first=nn.Linear(8, 32), second=nn.Linear(8, 32), head=nn.Linear(64, 4))
    found = mipp.inspect(net, normal(4, 8))
    assert {f.name: f.reason for f in found.frozen}["first"] == "new_zeros of the fixed size 64"
