"""Which nodes go together, and what stays and why: expected by hand, pattern by pattern."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES, VECTOR, Case, Net, assert_same, inspected, named, outputs
from torch import nn

import mipp
from mipp.graph.program import Call, execute
from mipp.graph.rules import has_rule
from mipp.graph.trace import trace
from mipp.modules.copies import working_copy


def slices_of(name: str, group: str) -> dict[tuple[str, int], list[list[int]]]:
    found = inspected(named(name))[1].groups[group]
    return {(s.tensor, s.axis): s.positions.tolist() for s in found.slices}


def each(number: int, start: int = 0) -> list[list[int]]:
    return [[start + i] for i in range(number)]


def test_a_chain_of_linears():
    assert slices_of("linear chain", "0") == {
        ("0.weight", 0): each(6),
        ("0.bias", 0): each(6),
        ("2.weight", 1): each(6),
    }
    assert slices_of("linear chain", "2") == {
        ("2.weight", 0): each(5),
        ("2.bias", 0): each(5),
        ("4.weight", 1): each(5),
    }


def test_a_batch_norm_belongs_to_its_convolution():
    norm = {(f"1.{t}", 0): each(5) for t in ("weight", "bias", "running_mean", "running_var")}
    expected = {("0.weight", 0): each(5), **norm, ("3.weight", 1): each(5)}
    assert slices_of("conv bn relu chain", "0") == expected


def test_flattening_makes_every_channel_a_range_of_inputs():
    rows = [list(range(16 * i, 16 * i + 16)) for i in range(4)]
    expected = {("0.weight", 0): each(4), ("0.bias", 0): each(4), ("3.weight", 1): rows}
    assert slices_of("conv flatten linear", "0") == expected


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


def test_a_depthwise_convolution_follows_its_input():
    slices = slices_of("depthwise", "0")
    assert slices["2.weight", 0] == slices["2.bias", 0] == slices["5.weight", 1] == each(5)
    assert not any(t == "2.weight" and axis == 1 for t, axis in slices)
    assert slices_of("depthwise multiplier", "0")["2.weight", 0] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_grouped_convolutions():
    """Few groups: the same position of each goes. Many groups: whole groups go."""
    few = slices_of("few groups", "0")
    assert few["0.weight", 0] == [[i, i + 4] for i in range(4)]
    assert few["2.weight", 1] == each(4)
    assert slices_of("few groups", "2")["2.weight", 0] == [[i, i + 3] for i in range(3)]
    many = slices_of("many groups", "0")
    assert many["0.weight", 0] == many["2.weight", 0] == many["4.weight", 1] == [[2 * i, 2 * i + 1] for i in range(4)]


def test_chunks_go_in_pairs():
    slices = slices_of("gated linear unit", "up")
    assert slices["up.weight", 0] == slices["up.bias", 0] == [[i, i + 5] for i in range(5)]
    assert slices["down.weight", 1] == each(5)


def test_a_channel_shuffle_is_followed():
    """View as (2, 3) and transposed: node i is positions i and 3 + i, read at 2i and 2i + 1."""
    slices = slices_of("channel shuffle", "a")
    assert slices["a.weight", 0] == [[i, i + 3] for i in range(3)]
    assert slices["b.weight", 1] == [[2 * i, 2 * i + 1] for i in range(3)]


def test_a_gate_belongs_to_what_it_gates():
    slices = slices_of("squeeze and excite", "conv")
    assert slices["up.weight", 0] == slices["down.weight", 1] == slices["out.weight", 1] == each(6)


def test_a_module_used_twice_has_one_group():
    slices = slices_of("module used twice", "first")
    assert {("again.weight", 0), ("again.weight", 1), ("last.weight", 1)} <= slices.keys()
    assert set(inspected(named("module used twice"))[1].groups) == {"first"}


def test_tied_weights_share_their_nodes():
    found = inspected(named("tied weights"))[1]
    slices = {(s.tensor, s.axis) for s in found.groups["embed"].slices}
    assert slices == {("embed.weight", 1), ("up.weight", 1), ("down.weight", 0), ("down.bias", 0)}
    reads = {s.tensor for s in found.groups["embed"].slices if s.reads}
    assert {"embed.weight", "up.weight"} <= reads
    assert {f.name: f.nodes for f in found.frozen}["embed"] == 7


def test_two_parameters_over_one_storage_share_their_nodes():
    slices = slices_of("two parameters over one storage", "a")
    assert slices["a.weight", 0] == slices["b.weight", 1] == slices["b.weight", 0] == slices["d.weight", 1]


@pytest.mark.parametrize("slope", [torch.tensor(0.1), torch.tensor([0.1])])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 4, 6)])
def test_one_slope_for_all_positions_ties_none(slope, shape):
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 3), "slope": nn.Parameter(slope)}
    found = mipp.inspect(Net(lambda m, x: m.b(F.prelu(m.a(x), m.slope)), **parts), torch.randn(shape))
    assert {name: group.size for name, group in found.groups.items()} == {"a": 5}


def test_slopes_that_nothing_can_cut_keep_their_channels():
    model = Net(lambda m, x: m.b(F.prelu(m.a(x), torch.arange(5.0))), a=nn.Linear(6, 5), b=nn.Linear(5, 3))
    found = mipp.inspect(model, torch.randn(4, 6))
    assert next((f.name, f.reason) for f in found.frozen) == ("a", "prelu meets positions of a fixed size")


def test_a_prelu_belongs_to_its_convolution():
    assert slices_of("prelu per channel", "0")["1.weight", 0] == each(5)


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
    "branch on values": {"a": 5},
    "scale taken from the data": {"a": 5},
    "layer norm": {"stem": 5, "up": 6},
    "softmax over channels": {"a": 5, "b": 4},
    "pixel shuffle": {"0": 2, "2": 4},
    "transformer layer": {"0": 4, "1.self_attn": 2, "1.linear1": 6},
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
                owner = s.tensor.rpartition(".")[0]
                if s.tensor == f"{owner}.weight":
                    listed[owner] = listed.get(owner, 0) + s.positions.size
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
                continue  # nothing to choose from
            assert listed.get(name, 0) >= width, f"{name}: {listed.get(name, 0)} of {width} nodes are accounted for"


def _called(model, case):
    seen = []
    handles = [m.register_forward_hook(lambda m, i, o, n=n: seen.append((n, o))) for n, m in model.named_modules()]
    outputs(model, case.batch(2))
    for h in handles:
        h.remove()
    return seen


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_traced_program_computes_what_the_model_computes(case):
    """Also on other data of the same shapes."""
    if case.name in ("scale taken from the data", "branch on values"):
        pytest.skip("its scalars are data")
    model = working_copy(inspected(case)[0])
    batch, other = case.batch(2, 1), case.batch(2, 2)
    program = trace(model, as_call(batch), has_rule)
    named_tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bound = {i: named_tensors[v.name] for i, v in enumerate(program.values) if v.name} | program.constants
    env = dict(zip(program.inputs, as_call(other).tensors, strict=True))
    with torch.inference_mode():
        execute(program, env, bound, (0, len(program.ops)))
    found = [env[i] if i in env else bound[i] for i in program.outputs]
    assert_same(found, outputs(model, other))


def as_call(batch) -> Call:
    from mipp.data.calibration import as_call as convert

    return convert(batch)


def test_a_custom_op_freezes_what_it_touches():
    """Sorting mixes positions in a way no rule knows."""

    def forward(m, x):
        return m.c(F.relu(m.b(torch.linalg.qr(m.a(x).unsqueeze(-1))[0].squeeze(-1))))

    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 2)).double()
    found = mipp.inspect(model, VECTOR(2, torch.Generator()))
    assert list(found.groups) == ["b"]
    assert any(f.name == "a" and "qr" in f.op and f.source.startswith("test_graph.py:") for f in found.frozen)


def test_a_single_linear_has_nothing_to_remove():
    found = mipp.inspect(nn.Linear(4, 3).double(), VECTOR(2, torch.Generator()))
    assert not found.groups
    assert [(f.name, f.nodes) for f in found.frozen] == [("weight", 3)] or [f.nodes for f in found.frozen] == [3]


def test_inspect_reads_every_form_of_input():
    for name in ("linear chain", "several inputs", "dict input", "tied weights"):
        case = named(name)
        assert mipp.inspect(case.model(), case.batch(2)).groups
    case = named("several inputs")
    assert mipp.inspect(case.model(), list(case.batch(2))).groups


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize(
    "name", ["residual", "conv flatten linear", "channel shuffle", "class token", "linear on sequences"]
)
def test_the_groups_do_not_depend_on_the_batch_size(name, samples):
    case = named(name)
    expected = inspected(case)[1]
    found = mipp.inspect(case.model(), case.batch(samples))
    assert {n: g.size for n, g in found.groups.items()} == {n: g.size for n, g in expected.groups.items()}
    assert found.macs == expected.macs


def test_an_axis_as_long_as_the_batch_is_not_taken_for_it():
    """Five tokens, five features, five samples."""

    def forward(m, x):
        return m.b(F.relu(m.a(x.transpose(1, 2)).transpose(1, 2)))

    case = Case(
        "square", lambda: Net(forward, a=nn.Linear(5, 5), b=nn.Linear(5, 5)), lambda n, g: torch.randn(n, 5, 5).double()
    )
    found = mipp.inspect(case.model(), case.batch(5))
    assert not found.groups  # a makes tokens, b reads features


def test_the_table_and_the_data_name_every_group_and_frozen_layer():
    _, found = inspected(named("cifar resnet"))
    text, data = str(found), json.loads(json.dumps(found.to_dict()))
    for name in found.groups:
        assert name in text
    for line in found.frozen:
        assert line.name in text
        assert line.reason in text
    assert [g["name"] for g in data["groups"]] == list(found.groups)
    assert len(data["frozen"]) == len(found.frozen)
    assert data["params"] == sum(p.numel() for p in inspected(named("cifar resnet"))[0].parameters())


def test_nodes_are_numbered_through():
    graph = inspected(named("concatenation"))[1].graph
    starts = [g.first_node for g in graph.groups.values()]
    assert starts == np.cumsum([0] + [g.size for g in graph.groups.values()])[:-1].tolist()
    mask = graph.keep_mask({"b": (1,)})
    assert mask.sum() == graph.num_nodes - 2
