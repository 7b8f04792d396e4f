"""Gates and slopes belong to the nodes they act on."""

import pytest
import torch
import torch.nn.functional as F
from cases import Net, inspected, named
from torch import nn

import mipp


def slices_of(name: str, group: str) -> dict[tuple[str, int], list[list[int]]]:
    found = inspected(named(name))[1].groups[group]
    return {(s.tensor, s.axis): s.positions.tolist() for s in found.slices}


def each(number: int, start: int = 0) -> list[list[int]]:
    return [[start + i] for i in range(number)]


def test_a_gate_belongs_to_what_it_gates():
    slices = slices_of("squeeze and excite", "conv")
    assert slices["up.weight", 0] == slices["down.weight", 1] == slices["out.weight", 1] == each(6)


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
