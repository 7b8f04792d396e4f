"""A GPU is not waited for node by node: values that selection and refit fetch from it are counted."""

import os
import shutil
from pathlib import Path

import pytest
import simulated_device
import torch
from torch import nn

import mipp

SIMULATED = os.environ.get("MIPP_TEST_DEVICE") == simulated_device.NAME and shutil.which(simulated_device.COMPILER)
if SIMULATED:
    simulated_device.start(Path(__file__).parents[2] / ".pytest_cache" / "device")
DEVICE = simulated_device.NAME if SIMULATED else "cuda"
pytestmark = [
    pytest.mark.skipif(not SIMULATED and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements was resized"),  # by the simulated device
]


class Residual(nn.Module):
    """A block of a transformer without its attention: the stream is normalised row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


def hidden_layer(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU())


def fetched(layers: int, width: int, layer=hidden_layer, **options) -> int:
    """Values that one call fetches for a network of hidden layers, in four batches."""
    torch.manual_seed(0)
    hidden = [layer(width) for _ in range(layers)]
    ends = (nn.Linear(8, 8), nn.Linear(8, 4)) if layer is Residual else (nn.Linear(8, width), nn.Linear(width, 4))
    model = nn.Sequential(ends[0], nn.ReLU(), *hidden, ends[1]).to(DEVICE).eval()
    batches = torch.randn(512, 8).to(DEVICE).split(128)
    with simulated_device.Reads(DEVICE) as seen:
        mipp.prune(model, batches, mipp.Budget(nodes=0.6), progress=False, **options)
    return seen.count


def per_group(width: int, **options) -> float:
    """Values fetched for one hidden layer more."""
    return (fetched(4, width, **options) - fetched(2, width, **options)) / 2


def test_a_group_costs_at_most_25_transfers_in_selection_and_25_in_the_refit():
    nats = mipp.methods.MIPP(worth="nats")
    selection, both = per_group(128, method=nats, compensate=False), per_group(128, method=nats)
    assert selection <= 25
    assert both - selection <= 25


@pytest.mark.parametrize("layer", [hidden_layer, Residual])
def test_a_group_whose_worth_is_measured_costs_at_most_40_transfers_in_selection(layer):
    """In a chain, and in a stream that is normalised."""
    assert per_group(128, layer=layer, compensate=False) <= 40


def test_where_selection_is_on_the_device_a_doubling_of_the_nodes_adds_a_constant(monkeypatch):
    """A sixteenth of the nodes goes at a time, and the last 64 go at once: rounds grow as the logarithm."""
    monkeypatch.setattr("mipp.methods.mipp.carried._LARGE", 1)
    nats = mipp.methods.MIPP(worth="nats")
    assert per_group(64, method=nats, compensate=False) <= 80
    assert per_group(256, method=nats, compensate=False) <= 80 + 2 * 400
