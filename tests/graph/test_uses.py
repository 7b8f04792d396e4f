"""Layers of one pass are found again in another, by weight, module and turn."""

import torch
from torch import nn

from mipp.graph.call import Call
from mipp.graph.trace import trace
from mipp.graph.uses import match, uses_of


class Turns(nn.Module):
    """One layer several times, another at the end if the input is wide."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        for row in range(x.shape[0]):
            y = self.step(x[row])
        return self.last(y) if x.shape[0] > 1 else y


def traced(rows: int):
    return trace(Turns().eval(), Call((torch.randn(rows, 1, 3),)))


def test_turns_are_counted():
    uses = list(uses_of(traced(3)).values())
    assert [use.turn for use in uses if use.module == "step"] == [0, 1, 2]


def test_a_layer_of_more_turns_is_at_each_what_it_is_at_its_last():
    long, short = traced(3), traced(2)
    wanted = list(uses_of(short))
    found = match(short, long, wanted)
    assert [short.ops[i].module for i in found.values()] == ["step", "step", "step", "last"]
    assert list(found.values()) == [wanted[0], wanted[1], wanted[1], wanted[2]]


def test_layers_that_a_pass_leaves_out_are_not_found():
    long, single = traced(2), traced(1)
    assert [long.ops[i].module for i in match(long, single, list(uses_of(long))).values()] == ["step"]
    assert long.signature != single.signature
