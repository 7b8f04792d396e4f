"""An op without a rule freezes the nodes it touches."""

import torch
import torch.nn.functional as F
from cases import VECTOR, Net
from torch import nn

import mipp


def test_a_custom_op_freezes_what_it_touches():
    """Sorting mixes positions in a way no rule knows."""

    def forward(m, x):
        return m.c(F.relu(m.b(torch.linalg.qr(m.a(x).unsqueeze(-1))[0].squeeze(-1))))

    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 2)).double()
    found = mipp.inspect(model, VECTOR(2, torch.Generator()))
    assert list(found.groups) == ["b"]
    assert any(f.name == "a" and "qr" in f.op and f.source.startswith("test_rules.py:") for f in found.frozen)
