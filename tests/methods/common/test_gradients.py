"""Losses that fail and batches that cannot be cut."""

import pytest
import torch
import torch.nn.functional as F
from tasks import relu_chain
from torch import nn

import mipp
from mipp.methods import (
    SNIP,
    SOSPI,
    SynFlow,
    Taylor,
)


class Propagation(nn.Module):
    """A graph network: what a node says depends on all of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, adjacency):
        return adjacency @ self.b((adjacency @ self.a(x)).relu())


def test_a_loss_that_raises_anything_is_told_as_such():
    data = [(torch.randn(40, 4, dtype=torch.float64), torch.arange(40) % 5)]  # of two classes
    with pytest.raises(mipp.CalibrationError, match=r"loss_fn\(output, labels\) raised IndexError"):
        mipp.prune(relu_chain(), data, mipp.Budget(nodes=0.5), Taylor(), loss_fn=F.cross_entropy, progress=False)


def test_no_batch_is_cut_into_one_of_a_single_sample():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    data = [(torch.randn(129, 4), torch.arange(129) % 2)]
    assert mipp.prune(model, data, mipp.Budget(nodes=0.5), SNIP(), loss_fn=F.cross_entropy, progress=False).plan


@pytest.mark.parametrize("method", [SynFlow(rounds=2), SOSPI(samples=4)], ids=lambda m: type(m).__name__)
def test_a_batch_that_cannot_be_cut_stays_whole(method):
    adjacency = (torch.rand(20, 20) < 0.3).float().softmax(1)
    data = [((torch.randn(20, 5), adjacency), torch.arange(20) % 3)]
    found = mipp.prune(
        Propagation(), data, mipp.Budget(nodes=0.5), method, loss_fn=F.cross_entropy, compensate=False, progress=False
    )
    assert found.plan.widths == {"a": 4}
