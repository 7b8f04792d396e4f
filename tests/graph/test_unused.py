"""Parameters that no op reads are frozen, and named with the reason."""

import torch
from torch import nn

import mipp
from mipp.graph.call import Call
from mipp.graph.unused import find_unused, trace_training


class Auxiliary(nn.Module):
    """A head for training only, a layer for nothing, and a parameter that the pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.auxiliary, self.never = nn.Linear(6, 3), nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, x):
        x = self.body(x).relu()
        return self.head(x) + self.auxiliary(x) if self.training else self.head(x)


def test_unused_tensors_are_found_by_module_and_told_from_those_of_training():
    model, seen = Auxiliary(), ("body.weight", "body.bias", "head.weight", "head.bias")
    unused = find_unused(model, seen)
    assert unused.keys() == {"auxiliary", "never", "scale"}
    program = trace_training(model, Call((torch.randn(2, 4),)))
    read = {value.name for value in program.values}
    assert [key for key, names in unused.items() if not read.isdisjoint(names)] == ["auxiliary"]


def test_they_are_listed_as_frozen():
    frozen = {f.name: f.reason for f in mipp.inspect(Auxiliary(), torch.randn(2, 4)).frozen}
    assert frozen["never"] == "did not run"
    assert frozen["scale"] == "no op reads it"
