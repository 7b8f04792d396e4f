"""A plan depends on the model, the data and the options, and on nothing else: neither on threads nor on batches.

Weights and data are closed forms, so that no generator of random numbers has a part in the plans that are kept here.
"""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")
KEPT = {
    "mipp": {"0": [0, 2, 3, 4, 5, 7], "2": [1, 5, 6, 8, 9], "5": [1, 2, 3, 11]},
    "mipp, nats alike": {"0": [0, 2, 3, 4, 5, 7], "2": [1, 5, 6, 8, 9], "5": [1, 2, 3, 11]},
    "l1": {"0": [2, 3, 5, 7], "2": [1, 2, 3, 5, 7], "5": [1, 3, 6, 7, 8, 10]},
    "thinet": {"0": [2, 3, 4, 7], "2": [1, 5, 6, 8, 9], "5": [0, 2, 3, 4, 8, 11]},
    "hrank": {"0": [0, 1, 2, 4], "2": [1, 5, 6, 8, 9], "5": [0, 3, 4, 6, 8, 11]},
}
"""By method. A change here is one that users see: it belongs into the changelog."""
METHODS = {**mipp.methods.all(), "mipp, nats alike": partial(mipp.methods.MIPP, worth="nats")}


def wave(*shape: int, pace: float) -> Tensor:
    """Numbers in [-1, 1] without a visible order."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64).square() * pace).sin().reshape(shape).float()


def network() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 12), nn.ReLU(),
        nn.Linear(12, 3),
    )  # fmt: skip
    with torch.no_grad():
        for number, parameter in enumerate(layers.parameters()):
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(scale * wave(*parameter.shape, pace=0.37 + 0.11 * number))
    return layers.eval()


IMAGES = wave(96, 2, 6, 6, pace=0.23)


def pruned(sizes=(96,), method=None):
    return mipp.prune(network(), list(IMAGES.split(list(sizes))), mipp.Budget(nodes=0.5), method, progress=False)


def check_same(found: mipp.Result, expected: mipp.Result) -> None:
    assert found.plan.kept == expected.plan.kept
    for a, b in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # sums are added in another order


@pytest.mark.parametrize("method", KEPT, ids=str)
def test_plans_stay_as_they_were(method):
    kept = pruned(method=METHODS[method]()).plan.kept
    assert {name: list(nodes) for name, nodes in kept.items()} == KEPT[method]


def test_threads_make_no_difference():
    threads, expected = torch.get_num_threads(), pruned()
    try:
        torch.set_num_threads(threads + 1)
        check_same(pruned(), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("sizes", [(32, 32, 32), (60, 30, 6)])
def test_how_the_samples_are_batched_makes_no_difference(sizes):
    check_same(pruned(sizes), pruned())
