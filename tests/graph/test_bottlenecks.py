"""Bottlenecks, against a search for a way around; and what is a chain of layers."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tests.cases import CASES, Net, inspected
from torch import Tensor, nn

import mipp
from mipp import zoo
from mipp.graph.bottlenecks import bottlenecks, is_chain
from mipp.graph.nodes import PruningGraph
from mipp.graph.program import Program


def graph_of(model: nn.Module, *inputs: Tensor) -> PruningGraph:
    return mipp.inspect(model.eval(), inputs).graph


def way_around(program: Program, missing: int) -> bool:
    """True if an output depends on an input where one op is left out."""
    fed = set(program.inputs)
    for op in program.ops:
        if op.index != missing and fed.intersection(op.inputs):
            fed.update(op.outputs)
    return bool(fed.intersection(program.outputs))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_op_is_a_bottleneck_exactly_if_there_is_no_way_around_it(case):
    program = inspected(case)[1].graph.program
    found = bottlenecks(program)
    reached = way_around(program, -1)
    for op in program.ops:
        assert (op.index in found) == (reached and not way_around(program, op.index)), op


def layers(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())))


WAYS: dict[str, tuple[bool, Callable[[Net, Tensor], Tensor]]] = {
    "one after the other": (True, lambda n, x: n.last(n.middle(n.first(x)))),
    "the sizes of a value are no path": (True, lambda n, x: n.last(n.middle(n.first(x)).reshape(x.shape[0], 8))),
    "a norm of the outputs": (True, lambda n, x: F.normalize(n.last(n.middle(n.first(x))))),
    "twice the same value": (True, lambda n, x: n.last(n.middle((h := n.first(x)) * torch.sigmoid(h)))),
    "a result that nothing reads": (True, lambda n, x: (h := n.first(x), h.exp(), n.last(n.middle(h)))[2]),
    "a residual stream": (False, lambda n, x: n.last((h := n.first(x)) + n.middle(h))),
    "a product with what a layer made": (False, lambda n, x: n.last((h := n.first(x)) * n.middle(h))),
    "two branches": (False, lambda n, x: n.last(n.first(x) + n.middle(x))),
    "an early exit": (False, lambda n, x: n.last(n.middle(h := n.first(x))) + 0 * h.sum()),
}


@pytest.mark.parametrize("name", WAYS)
def test_layers_that_nothing_goes_around_are_a_chain(name):
    chain, way = WAYS[name]
    torch.manual_seed(0)
    model = Net(way, first=layers(8, 8), middle=layers(8, 8, 8), last=nn.Linear(8, 3))
    assert is_chain(graph_of(model, torch.randn(4, 8))) is chain


def test_networks_whose_layers_follow_one_another_are_chains():
    images = torch.randn(2, 3, 32, 32)
    assert is_chain(graph_of(zoo.vgg11(), images))
    assert is_chain(graph_of(zoo.LeNet5(), torch.randn(2, 1, 28, 28)))
    assert not is_chain(graph_of(zoo.resnet20(), images))
    assert not is_chain(graph_of(zoo.DigitsCNN(), torch.randn(2, 1, 8, 8)))


def test_one_group_is_no_chain():
    assert not is_chain(graph_of(layers(8, 8, 8)[:3], torch.randn(4, 8)))
