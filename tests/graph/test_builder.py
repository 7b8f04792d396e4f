"""Groups and frozen layers, expected by hand, pattern by pattern."""

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, VECTOR, Net, inspected, named, outputs
from torch import nn

import mipp
from mipp.graph.nodes import owner


def slices_of(name: str, group: str) -> dict[tuple[str, int], list[list[int]]]:
    found = inspected(named(name))[1].groups[group]
    return {(s.tensor, s.axis): s.positions.tolist() for s in found.slices}


def each(number: int, start: int = 0) -> list[list[int]]:
    return [[start + i] for i in range(number)]


def test_a_stream_is_one_group_of_all_that_write_to_it():
    slices = slices_of("residual", "stem")
    assert {t for t, axis in slices if axis == 0} == {
        "stem.weight", "b.weight", *(f"{n}.{t}" for n in ("bn0", "bn2") for t in ("weight", "bias",
        "running_mean", "running_var"))
    }  # fmt: skip
    assert {t for t, axis in slices if axis == 1} == {"a.weight", "out.weight"}


def test_a_projection_ties_both_branches():
    slices = slices_of("projection shortcut", "b")
    assert {("b.weight", 0), ("short.weight", 0), ("fc.weight", 1)} <= slices.keys()
    assert slices["fc.weight", 1] == each(6)


def test_a_module_used_twice_has_one_group():
    slices = slices_of("module used twice", "first")
    assert {("again.weight", 0), ("again.weight", 1), ("last.weight", 1)} <= slices.keys()
    assert set(inspected(named("module used twice"))[1].groups) == {"first"}


def test_two_parameters_over_one_storage_share_their_nodes():
    slices = slices_of("two parameters over one storage", "a")
    assert slices["a.weight", 0] == slices["b.weight", 1] == slices["b.weight", 0] == slices["d.weight", 1]


def test_bare_parameters_name_their_groups():
    found = inspected(named("functional calls"))[1]
    assert {n: g.size for n, g in found.groups.items()} == {"w1": 6, "w2": 5}


def test_producers_and_consumers_are_named():
    group = inspected(named("residual"))[1].groups["stem"]
    assert set(group.producers) == {"stem", "bn0", "b", "bn2"}
    assert set(group.consumers) == {"a", "out"}


SIZES = {
    "view with computed size": {"conv": 5},
    "average and global pool": {"a": 5, "b": 4},
    "mean over positions": {"conv": 6},
    "in-place relu": {"0": 5, "3": 4},
    "dropout": {"0": 6, "4": 5},
    "batch norm without affine": {"0": 5},
    "batch norm without running statistics": {"a": 5, "b": 4},
    "conv1d": {"0": 5, "3": 4},
    "conv3d": {"0": 4, "3": 3},
    "reflected padding": {"0": 4},
    "upsampling": {"0": 4, "2": 3},
    "linear on sequences": {"0": 6, "2": 5},
    "three branches": {"a": 5},
    "linear norm over tokens": {"stem": 5, "a": 4},
    "linear on the last axis of an image": {"a": 4, "mix": 5},
    "reader used twice": {"a": 5},
    "shared batch norm": {"a": 5},
    "unused parameters": {"a": 5},
    "several inputs": {"a": 5},
    "dict input": {"a": 5, "b": 4},
    "tuple output": {"a": 6},
    "dict output": {"a": 6},
    "dataclass output": {"a": 6},
    "embedding": {"embed": 6, "fc": 5},
    "class token": {"stem": 5, "mlp": 6},
    "type and device of another tensor": {"a": 5, "b": 6},
    "sizes of another tensor": {"a": 6, "b": 5},
    "positions counted on a slice": {"stem": 3},
    "parameters read by the loss only": {"a": 5},
    "graph attention": {"w": 3},
    "biases of heads on either side of a transpose": {"q": 3},
    "messages by scatter": {"a": 6},
    "packed by head": {"qkv": 3},
    "packed by width": {"qkv": 3},
    "packed by part and sliced": {"qkv": 3},
    "packed by head and chunked": {"qkv": 3},
    "scores by baddbmm": {"q": 3},
    "tokens gathered and repeated": {"a": 6},
    "branch on values": {"a": 5},
    "scale taken from the data": {"a": 5},
    "layer norm": {"stem": 5, "up": 6},
    "softmax over channels": {"a": 5, "b": 4},
    "pixel shuffle": {"0": 2, "2": 4},
    "transformer layer": {"0": 4, "1.self_attn": 2, "1.linear1": 6},
    "sequence reduction": {"embed": 6, "key": 5},
    "one attribute for the heads of two layers": {"a": 4},
    "ones of another layer's width": {"a": 5},
    "rounded weights": {"0.layer": 5, "2.layer": 4},
    "weights for each sample": {"a.style": 6, "a": 5, "b": 4},
    "kernels mixed for each sample": {"0": 5, "2": 4},
    "weight norm on a grouped convolution of the stream": {"stem": 4},
    "weight norm on grouped and depthwise convolutions": {"0": 4, "4": 4},
    "splines with a scale for each": {"0": 6, "1": 5},
    "linear layers on radial bumps": {"layers.0": 6, "layers.1": 5},
    "polynomials of every input": {"weights": 6, "weights#2": 5},
    "gates between the values": {"up": 5},
    "every third position": {"up": 4},
    "powers in place": {"a": 5},
    "single outputs": {"a": 5},
    "weights that pass through an unknown op": {"b": 5},
}


@pytest.mark.parametrize("name", SIZES)
def test_groups_and_their_sizes(name):
    assert {n: g.size for n, g in inspected(named(name))[1].groups.items()} == SIZES[name]


FROZEN = {
    "unknown op": ("a", 6, "fft"),
    "max over neighbouring channels": ("a", 6, "max_pool3d"),
    "local response norm": ("0", 4, "avg_pool3d"),
    "index_select over channels": ("a", 5, "index_select"),
    "groups fixed in the code": ("0", 4, "groups"),
    "fixed slice": ("a", 4, "slice"),
    "view with fixed size": ("conv", 4, "view"),
    "tuple output": ("b", 5, "output"),
    "single outputs": ("gate", 1, "single output"),
    "weights that pass through an unknown op": ("a", 4, "linalg_qr"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_cannot_be_removed_is_listed_with_its_reason(name):
    """And with the op and the line of the model's code, where there is one."""
    layer, nodes, word = FROZEN[name]
    _, found = inspected(named(name))
    assert layer not in found.groups
    lines = [f for f in found.frozen if f.name == layer]
    assert sum(f.nodes for f in lines) == nodes
    assert any(word in f"{f.op} {f.reason}" for f in lines)
    for f in lines:
        if "output" not in f.reason:
            assert f.op
            assert f.source.startswith("cases.py:") or f.source == ""
            assert f.source or name == "local response norm"  # called by torch's own modules


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_node_that_a_weight_makes_is_in_a_group_or_listed_as_frozen(case):
    """Nothing is silently skipped. The nodes are counted on the modules; those of shared weights on the first one."""
    model, found = inspected(case)
    listed: dict[str, int] = {}
    for group in found.groups.values():
        for s in group.slices:
            if not s.reads or s.axis == 0:
                name = owner(s.tensor)
                if s.tensor in (f"{name}.weight", f"{name}.parametrizations.weight.original1"):
                    listed[name] = listed.get(name, 0) + s.positions.size
    for f in found.frozen:
        listed[f.name] = listed.get(f.name, 0) + f.nodes
    used = {m for m, _ in _called(model, case)}
    seen = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd):
            continue
        shared = module.weight.data_ptr() in seen
        seen.add(module.weight.data_ptr())
        if name in used and not shared and not isinstance(module, nn.Embedding):
            width = module.weight.shape[0]
            if width == 1:
                continue  # nothing to choose from; see the next test
            assert listed.get(name, 0) >= width, f"{name}: {listed.get(name, 0)} of {width} nodes are accounted for"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer_with_weights_is_in_a_group_or_in_the_list_of_frozen_ones(case):
    """Whatever becomes of its weights, however few outputs it has, whether it ran or not."""
    model, found = inspected(case)
    named_somewhere = {f.name for f in found.frozen}.union(
        *({*g.producers, *g.consumers} for g in found.groups.values())
    )
    parameters = [name for name, p in model.named_parameters() if p.ndim > 1]
    assert [name for name in parameters if named_somewhere.isdisjoint((name, owner(name)))] == []


def _called(model, case):
    seen = []
    handles = [m.register_forward_hook(lambda m, i, o, n=n: seen.append((n, o))) for n, m in model.named_modules()]
    outputs(model, case.batch(2))
    for h in handles:
        h.remove()
    return seen


def test_a_single_linear_has_nothing_to_remove():
    found = mipp.inspect(nn.Linear(4, 3).double(), VECTOR(2, torch.Generator()))
    assert not found.groups
    assert [(f.name, f.nodes) for f in found.frozen] == [("weight", 3)] or [f.nodes for f in found.frozen] == [3]


pytestmark = pytest.mark.usefixtures("quick")


NUMBERS = {
    "mean by hand": lambda m, h: h / (h.pow(2).sum(-1, keepdim=True) / h.size(-1) + 1e-5).sqrt(),
    "a share": lambda m, h: h / h.shape[1],
    "scaled": lambda m, h: h * h.shape[1] ** 0.5,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_nodes_whose_number_enters_the_code_as_a_number_are_frozen_with_op_and_line(name):
    model = Net(
        lambda m, x: m.o(F.relu(m.b(NUMBERS[name](m, m.a(x))))),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 12),
        o=nn.Linear(12, 3),
    )
    found = mipp.inspect(model, torch.randn(4, 8))
    assert found.groups.keys() == {"b"}
    frozen = next(f for f in found.frozen if f.name == "a")
    if name != "scaled":  # there the number is another one
        assert frozen.op in ("div", "pow")
        assert frozen.source.startswith("test_builder.py:")


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_heads_of_attention_that_counts_its_width_go_with_as_many_channels_of_the_stream(options):
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    model = Net(lambda m, x: m.o(m.a(m.e(x), m.e(x), m.e(x))[0]), e=nn.Linear(5, 8), a=attention, o=nn.Linear(8, 3))
    x = torch.randn(6, 4, 5)
    found = mipp.inspect(model, x)
    assert {name: group.size for name, group in found.groups.items()} == {"e": 2, "a.out_proj": 8}
    plan = mipp.PruningPlan.of(found.graph, model, {n: range(g.size - 1) for n, g in found.groups.items()})
    torch.testing.assert_close(mipp.apply(plan, model)(x), mipp.mask(plan, model)(x))


def test_a_model_of_half_precision_in_its_code_keeps_its_groups():
    torch.manual_seed(3)
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)) for _ in range(8))

    def forward(m, x):
        x = x.to(torch.float16)
        for block in m.blocks:
            x = x + block(x)
        return x

    model = Net(forward, blocks=blocks).half()
    assert len(mipp.inspect(model, torch.randn(8, 64)).groups) == 8


def test_positions_paired_with_fixed_ones_are_frozen():
    class Paired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = torch.cat([x, self.a(x)], 1).chunk(2, 1)
            return self.b(first * second)

    graph = mipp.inspect(Paired(), torch.randn(2, 3))
    assert sum(g.size for g in graph.groups.values()) <= 1
    assert any(f.name == "a" for f in graph.frozen)


def test_what_meets_a_stream_that_is_followed_no_longer_names_the_op_where_that_starts():
    def forward(m, x):
        h = m.norm(torch.fft.rfft(m.stem(x), n=10).abs())
        return m.out(m.last(F.relu(h + m.b(F.relu(m.a(h))))))

    net = Net(
        forward, stem=nn.Linear(4, 6), norm=nn.LayerNorm(6), a=nn.Linear(6, 5), b=nn.Linear(5, 6),
        last=nn.LayerNorm(6), out=nn.Linear(6, 2),
    )  # fmt: skip
    found = mipp.inspect(net, torch.randn(2, 4))
    assert list(found.groups) == ["a"]
    assert {f.name: f.op for f in found.frozen} == {"stem": "_fft_r2c", "b": "_fft_r2c", "out": ""}


def with_mask_token(in_training):
    def forward(m, x):
        h = m.a(x) + (in_training(m) if m.training else 0)
        return m.b(F.relu(h))

    parts = {"mask_token": nn.Parameter(torch.randn(5)), "other": nn.Parameter(torch.randn(1, 5))}
    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 2), **parts)


def test_a_parameter_read_in_training_is_cut_with_what_it_meets():
    net = with_mask_token(lambda m: m.mask_token)
    found = mipp.inspect(net, torch.randn(2, 4))
    assert {s.tensor for s in found.groups["a"].slices} == {"a.weight", "a.bias", "mask_token", "b.weight"}
    assert {f.name: f.reason for f in found.frozen} == {"b": "is an output of the model", "other": "no op reads it"}
    small = mipp.prune(net, [torch.randn(8, 4)], mipp.Budget(nodes=0.5), progress=False).model.train()
    assert small.mask_token.shape == (small.a.out_features,)
    small(torch.randn(2, 4)).sum().backward()
    assert small.mask_token.grad is not None


def test_auxiliary_heads_are_cut_with_what_they_read():
    def forward(m, x):
        h = F.relu(m.a(x))
        return (m.b(h), m.auxiliary(h)) if m.training else m.b(h)

    net = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2), auxiliary=nn.Linear(6, 3))
    small = mipp.prune(net, [torch.randn(8, 4)], mipp.Budget(nodes=0.5), progress=False).model.train()
    assert small.auxiliary.in_features == small.a.out_features < 6
    assert [out.shape for out in small(torch.randn(2, 4))] == [(2, 2), (2, 3)]


def test_a_size_in_the_code_for_training_keeps_the_stream():
    net = with_mask_token(lambda m: m.mask_token.view(1, 5).expand(2, 5))
    found = mipp.inspect(net, torch.randn(2, 4))
    assert not found.groups
    assert {f.name: f.op for f in found.frozen if f.name == "a"} == {"a": "view"}


def test_where_training_cannot_be_followed_a_parameter_that_no_op_reads_keeps_the_stream():
    def fail(m):
        raise ValueError("labels are missing")

    found = mipp.inspect(with_mask_token(fail), torch.randn(2, 4))
    assert not found.groups
    assert {f.name: f.reason for f in found.frozen} == {
        "a": "mask_token, other did not run, and may share these nodes",
        "b": "is an output of the model",
        "mask_token": "no op reads it",
        "other": "no op reads it",
    }


def test_positions_that_an_op_makes_in_a_fixed_number_are_named_by_that_op():
    """Slopes by the number of the head, as BLOOM's, reach the scores several ops behind."""

    def forward(m, x):
        q, k, v = (
            layer(x).view(len(x), -1, 4, 2).transpose(1, 2).reshape(-1, x.shape[1], 2) for layer in (m.q, m.k, m.v)
        )
        slopes = torch.pow(0.5, torch.arange(1, 5, dtype=x.dtype))[:, None, None] * torch.arange(x.shape[1])
        scores = torch.baddbmm(slopes.repeat(len(x), 1, 1), q, k.mT).softmax(-1)
        return m.out((scores @ v).view(len(x), 4, -1, 2).transpose(1, 2).flatten(2))

    net = Net(forward, q=nn.Linear(3, 8), k=nn.Linear(3, 8), v=nn.Linear(3, 8), out=nn.Linear(8, 2))
    frozen = {f.name: f for f in mipp.inspect(net, torch.randn(3, 5, 3)).frozen}
    assert {frozen[name].op for name in "qk"} == {"arange"}
    assert frozen["q"].reason == "baddbmm meets positions of a fixed size"
