"""Linear layers and convolutions, in groups or not, with tied weights."""

import pytest
import torch
import torch.nn.functional as F
from benchmarks.zoo.checks import random_plan
from cases import Net, inspected, named
from torch import nn

import mipp


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


def test_tied_weights_share_their_nodes():
    found = inspected(named("tied weights"))[1]
    slices = {(s.tensor, s.axis) for s in found.groups["embed"].slices}
    assert slices == {("embed.weight", 1), ("up.weight", 1), ("down.weight", 0), ("down.bias", 0)}
    reads = {s.tensor for s in found.groups["embed"].slices if s.reads}
    assert {"embed.weight", "up.weight"} <= reads
    assert {f.name: f.nodes for f in found.frozen}["embed"] == 7


def grouped_product(dtype: torch.dtype, *, transposed: bool) -> tuple[nn.Module, torch.Tensor]:
    """A layer, the matrices of two experts, a layer; the kernel knows no float64."""

    def forward(m, x):
        weight = m.w.transpose(1, 2) if transposed else m.w
        ends = torch.tensor([len(x) // 2, len(x)], dtype=torch.int32)
        return m.b(F.grouped_mm(F.relu(m.a(x)), weight, offs=ends).relu())

    shape = (2, 16, 32) if transposed else (2, 32, 16)
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape) / 5)
    model = Net(forward, a=nn.Linear(8, 32), w=weight, b=nn.Linear(16, 4)).to(dtype).eval()
    return model, torch.randn(6, 8, dtype=dtype)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "multiple"), [(torch.float32, 4), (torch.bfloat16, 8)])
def test_rows_of_a_grouped_product_stay_multiples_of_16_bytes(dtype, multiple, transposed):
    model, x = grouped_product(dtype, transposed=transposed)
    found = mipp.inspect(model, x)
    assert {n: (g.size, g.multiple) for n, g in found.groups.items()} == {"a": (32, multiple), "w": (16, multiple)}
    assert f"in multiples of {multiple} nodes" in str(found)
    plan = random_plan(found.graph, model)
    with torch.no_grad():
        cut, masked = mipp.apply(plan, model)(x), mipp.mask(plan, model)(x)
    torch.testing.assert_close(cut, masked, rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_budgets_keep_the_multiples_of_an_op(quick):
    model, _ = grouped_product(torch.float32, transposed=False)
    batches = [torch.randn(16, 8) for _ in range(3)]
    for method in (mipp.methods.MIPP(), mipp.methods.L1(scope="global")):
        for budget in (mipp.Budget(macs=0.5), mipp.Budget(nodes=0.4, min_keep=0), mipp.Budget(macs=0.6, round_to=3)):
            widths = mipp.prune(model, batches, budget, method, progress=False).plan.widths
            assert all(width > 0 and width % 4 == 0 for width in widths.values())
    tested = mipp.prune(model, batches, method=mipp.methods.MIPP(confidence=0.9), progress=False)
    assert all(width > 0 and width % 4 == 0 for width in tested.plan.widths.values())
    with pytest.raises(mipp.InfeasibleBudgetError, match=r"10 nodes of group 'a'.*multiples of 4 only; expected 8"):
        mipp.prune(model, batches, mipp.Budget(widths={"a": 10}), progress=False)
