"""A walk applies the rules op by op, and says why what it loses can be followed no longer."""

import torch
from torch import nn

import mipp
from mipp.graph.call import Call
from mipp.graph.trace import trace
from mipp.graph.tracker import walk


class Lost(nn.Module):
    """Eigenvalues between two layers have no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 9), nn.Linear(3, 2)

    def forward(self, x):
        return self.second(torch.linalg.svdvals(self.first(x).reshape(-1, 3, 3)))


def test_a_layer_with_a_weight_is_a_site_with_an_atom_per_position():
    found = walk(trace(nn.Linear(4, 3).eval(), Call((torch.randn(2, 4),))), {})
    (site,) = found.sites
    assert (site.weight, site.bias) == ("weight", "bias")
    assert (len(site.reads), len(site.writes)) == (4, 3)


def test_an_op_without_a_rule_freezes_what_it_touches_and_is_named():
    (first,) = [f for f in mipp.inspect(Lost(), torch.randn(2, 4)).frozen if f.name == "first"]
    assert "svd" in first.op
    assert first.source.startswith("test_tracker.py:")
