"""Flattening, concatenation, chunks, shuffles and padding move positions."""

import torch
import torch.nn.functional as F
from benchmarks.zoo.checks import cut_equals_masked, random_plan
from cases import Net, inspected, named
from torch import nn

import mipp
from mipp.data.calibration import as_call


def slices_of(name: str, group: str) -> dict[tuple[str, int], list[list[int]]]:
    found = inspected(named(name))[1].groups[group]
    return {(s.tensor, s.axis): s.positions.tolist() for s in found.slices}


def each(number: int, start: int = 0) -> list[list[int]]:
    return [[start + i] for i in range(number)]


def test_flattening_makes_every_channel_a_range_of_inputs():
    rows = [list(range(16 * i, 16 * i + 16)) for i in range(4)]
    expected = {("0.weight", 0): each(4), ("0.bias", 0): each(4), ("3.weight", 1): rows}
    assert slices_of("conv flatten linear", "0") == expected


def test_a_zero_padded_shortcut_shifts_the_nodes():
    slices = slices_of("zero-padded shortcut", "stem")
    assert slices["stem.weight", 0] == slices["a.weight", 1] == each(4)
    assert slices["b.weight", 0] == slices["fc.weight", 1] == each(4, 1)


def test_the_option_a_shortcuts_of_the_zoo_shift_the_nodes():
    slices = slices_of("cifar resnet", "conv1")
    assert slices["layer2.0.conv2.weight", 0] == each(3, 1)
    assert slices["layer3.0.conv2.weight", 0] == slices["linear.weight", 1] == each(3, 2)
    frozen = {f.name: f.nodes for f in inspected(named("cifar resnet"))[1].frozen}
    assert frozen["layer2.0.conv2"] == 2
    assert frozen["layer3.0.conv2"] == 5


def test_concatenation_shifts_the_readers():
    assert slices_of("concatenation", "a")["out.weight", 1] == each(4)
    middle = slices_of("concatenation", "b")
    assert (
        middle["c.weight", 1]
        == middle["bn.weight", 0]
        == middle["bn.running_var", 0]
        == middle["out.weight", 1]
        == each(3, 4)
    )
    assert slices_of("concatenation", "c")["out.weight", 1] == each(4, 7)
    assert slices_of("concatenation with the input", "a")["b.weight", 1] == each(4, 3)


def test_chunks_go_in_pairs():
    slices = slices_of("gated linear unit", "up")
    assert slices["up.weight", 0] == slices["up.bias", 0] == [[i, i + 5] for i in range(5)]
    assert slices["down.weight", 1] == each(5)


def test_a_channel_shuffle_is_followed():
    """View as (2, 3) and transposed: node i is positions i and 3 + i, read at 2i and 2i + 1."""
    slices = slices_of("channel shuffle", "a")
    assert slices["a.weight", 0] == [[i, i + 3] for i in range(3)]
    assert slices["b.weight", 1] == [[2 * i, 2 * i + 1] for i in range(3)]


def test_heads_joined_with_a_part_that_is_turned_by_angles_of_a_buffer_are_nodes():
    """The rotary part of the keys is one for all heads, as in latent attention: its positions stay."""

    def turned(m, t):
        angle = torch.arange(t.shape[2], dtype=t.dtype)[:, None] * m.rates
        even, odd = t[..., 0::2], t[..., 1::2]
        return torch.cat([even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], -1)

    def forward(m, x):
        still, pairs = m.q(x).unflatten(-1, (-1, 6)).transpose(1, 2).split([2, 4], -1)
        keys, values = m.kv(x).unflatten(-1, (-1, 5)).transpose(1, 2).split([2, 3], -1)
        shared = turned(m, m.k(x)[:, None])
        joined = keys.new_empty(*keys.shape[:3], 6)
        joined[..., :2], joined[..., 2:] = keys, shared.expand(-1, keys.shape[1], -1, -1)
        heads = F.scaled_dot_product_attention(torch.cat([still, turned(m, pairs)], -1), joined, values)
        return m.o(heads.transpose(1, 2).flatten(2))

    layers = {"q": nn.Linear(5, 18), "kv": nn.Linear(5, 15), "k": nn.Linear(5, 4), "o": nn.Linear(9, 3)}
    net = Net(forward, **layers).double().eval()
    net.register_buffer("rates", torch.tensor([1.0, 0.1], dtype=torch.float64))
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    found = mipp.inspect(net, x)
    assert {name: (group.size, *group.producers) for name, group in found.groups.items()} == {"q": (3, "q", "kv")}
    assert {f.name for f in found.frozen} == {"k", "o"}
    cut_equals_masked(random_plan(found.graph, net), net, as_call(x))


def test_heads_whose_values_get_a_constant_beside_them_are_nodes():
    """Linear attention sums its weights by a value of ones, as EfficientViT does."""

    def forward(m, x):
        q, k, v = m.qkv(x).unflatten(-1, (-1, 6)).transpose(1, 2).chunk(3, -1)
        q, k, v = F.relu(q), F.relu(k), F.pad(v, (0, 1), value=1)
        y = q @ (k.mT @ v)
        return m.o((y[..., :-1] / (y[..., -1:] + 1)).transpose(1, 2).flatten(2))

    net = Net(forward, qkv=nn.Linear(5, 18), o=nn.Linear(6, 3)).double().eval()
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    found = mipp.inspect(net, x)
    assert {name: group.size for name, group in found.groups.items()} == {"qkv": 3}
    cut_equals_masked(random_plan(found.graph, net), net, as_call(x))


def test_channels_that_patches_are_summed_into_are_nodes():
    """Weights for the neighbours of every place, as in VOLO; and patches that a convolution makes."""

    def forward(m, x):
        v = m.v(x)
        n, channels, side, _ = v.shape
        patches = F.unfold(v, 3, padding=1).reshape(n, channels, 9, side**2)
        mixed = (patches * m.a(x).flatten(2).softmax(1)[:, None]).reshape(n, 9 * channels, side**2)
        return m.o(F.relu(F.fold(mixed, (side, side), 3, padding=1)) + m.b(F.fold(m.p(x).flatten(2), (4, 4), 1)))

    layers = {"v": nn.Conv2d(3, 5, 1), "a": nn.Conv2d(3, 9, 1), "o": nn.Conv2d(5, 2, 1)}
    net = Net(forward, **layers, p=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 5, 1)).double().eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    found = mipp.inspect(net, x)
    assert {name: group.size for name, group in found.groups.items()} == {"v": 5, "p": 6}
    cut_equals_masked(random_plan(found.graph, net), net, as_call(x))


def test_the_positions_of_a_patch_go_together():
    net = Net(
        lambda m, x: m.o(F.fold(m.p(x).flatten(2), (8, 8), 2, stride=2)), p=nn.Conv2d(3, 20, 1), o=nn.Conv2d(5, 2, 1)
    ).double()
    found = mipp.inspect(net, torch.randn(2, 3, 4, 4, dtype=torch.float64))
    slices = {(s.tensor, s.axis): s.positions.tolist() for s in found.groups["p"].slices}
    assert slices["p.weight", 0] == [list(range(4 * i, 4 * i + 4)) for i in range(5)]
    assert slices["o.weight", 1] == each(5)
