"""Norms of rows are found however they are written, and weigh rows as they divide them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mipp.data.calibration import Calibration, read
from mipp.graph.builder import Draft
from mipp.graph.row_norms import RowNorm, row_norm, row_norm_behind


class Stream(nn.Module):
    """A layer that adds to a stream, and what reads the stream."""

    def __init__(self, behind):
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 2)
        self.behind = behind

    def forward(self, x):
        return self.head(self.behind(x + self.outer(self.inner(x).relu())))


def hugging_face(x):
    kind = x.dtype
    x = x.to(torch.float32)
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(kind)


NORMS = {
    "layer norm": (lambda x: F.layer_norm(x, (6,), eps=1e-3), RowNorm(True, 1e-3)),
    "rms norm": (lambda x: F.rms_norm(x, (6,), eps=1e-4), RowNorm(False, 1e-4)),
    "rms norm as it comes": (lambda x: F.rms_norm(x, (6,)), RowNorm(False, torch.finfo(torch.float32).eps)),
    "in parts": (hugging_face, RowNorm(False, 1e-6)),
    "square": (lambda x: x / (x * x).mean(-1, keepdim=True).sqrt(), RowNorm(False, 0.0)),
    "variance": (lambda x: x * torch.rsqrt(x.var(-1, keepdim=True) + 1e-2), RowNorm(True, 1e-2)),
    "behind dropout": (lambda x: F.layer_norm(F.dropout(x, 0.5, False), (6,)), RowNorm(True, 1e-5)),
    "nothing": (torch.tanh, None),
    "over the rows": (lambda x: x / (x * x).mean(0, keepdim=True).sqrt(), None),
    "over more than the channels": (lambda x: F.layer_norm(x, (3, 6)), None),
    "the variance of squares": (lambda x: x / x.pow(2).var(-1, keepdim=True).sqrt(), None),
    "no root": (lambda x: x / (x * x).mean(-1, keepdim=True), None),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_rows_is_found_however_it_is_written(name):
    behind, expected = NORMS[name]
    batch = read(Calibration([torch.randn(4, 3, 6)]), None)[0]
    program = Draft(Stream(behind).eval(), batch.call).graph().program
    added = [op.outputs[0] for op in program.ops if op.name == "add" and len(op.inputs) == 2]
    assert row_norm(program, added[0]) == expected
    _, outer, _ = (op for op in program.ops if op.name == "linear")
    assert row_norm_behind(program, outer) == expected


@pytest.mark.parametrize("name", ["layer norm", "rms norm", "variance"])
def test_a_small_error_in_a_row_counts_as_it_does_behind_the_norm(name):
    """The weighted error before the norm bounds the one behind it, and is of its size whichever way errors point."""
    behind, norm = NORMS[name]
    rows = torch.tensor([1.0, 30.0, 0.1])[:, None] * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    error = 1e-3 * torch.randn(200, 3, 6, generator=torch.Generator().manual_seed(1))
    moved = (behind(rows + error) - behind(rows)).square().sum(2).mean(0)
    weighted = (norm.weigh(rows) * error.square().sum(2)).mean(0)
    assert (moved < 1.3 * weighted).all()
    assert (moved > 0.5 * weighted).all()


def test_a_reader_without_results_is_no_norm():
    """An op that gives back no tensor has no reader of its own."""

    def compared(x):
        return x.tanh() if torch.equal(x, x) else x

    batch = read(Calibration([torch.randn(4, 3, 6)]), None)[0]
    program = Draft(Stream(compared).eval(), batch.call).graph().program
    added = [op.outputs[0] for op in program.ops if op.name == "add" and len(op.inputs) == 2]
    assert row_norm(program, added[0]) is None
