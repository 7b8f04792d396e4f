"""Processes that each have a share of the calibration data prune as one that has all of it."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

import mipp
from mipp.estimators import Gaussian
from mipp.methods import FLAP, L1, MIPP, OSSCAR, Taylor
from mipp.statistics.observing import Moments

WORLD = 2


METHODS = {
    "moments": MIPP(),
    "samples": MIPP(estimator=Gaussian(ranks=True)),
    "collapsed": MIPP(collapse="l1", activation="post"),
    "flap": FLAP(),
    "osscar": OSSCAR(),
    "l1": L1(),
}


class Network(nn.Module):
    """A residual addition, a ReLU behind a batch norm, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.hidden, self.head = nn.Conv2d(8, 12, 3), nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        x = (x + self.norm2(self.conv2(x))).relu()
        return self.head(self.hidden(self.conv3(x).relu().mean((2, 3))).relu())


def network():
    torch.manual_seed(0)
    model = Network().double()
    model(torch.randn(32, 3, 6, 6).double())
    return model.eval()


def batches():
    """Of different sizes, and of different scales, so that shards differ."""
    generator = torch.Generator().manual_seed(1)
    sizes = (16, 16, 7, 16, 9, 16)
    return [
        ((1 + i) * torch.randn(n, 3, 6, 6, generator=generator).double() + i, torch.arange(n) % 4)
        for i, n in enumerate(sizes)
    ]


def pruned(method, data):
    return mipp.prune(network(), data, mipp.Budget(macs=0.5), method, loss_fn=F.cross_entropy, progress=False, seed=3)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORLD)
    share = batches()[:4] if rank == 0 else batches()[4:]
    data = mipp.Calibration(share, sharded=True)
    found = {}
    for name, method in METHODS.items():
        result = pruned(method, data)
        found[name] = result.plan.kept, result.model.state_dict()
    refused = []
    for call in (lambda: pruned(Taylor(), data), lambda: mipp.prune(network(), data, recover="distill")):
        try:
            call()
        except mipp.MippError as error:
            refused.append(str(error))
    torch.save((found, refused), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(work, (str(folder),), WORLD)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_is_that_of_one_process(shards, name):
    expected = pruned(METHODS[name], batches())
    for found, _ in shards:
        kept, state = found[name]
        assert kept == expected.plan.kept
        for key, tensor in expected.model.state_dict().items():
            torch.testing.assert_close(state[key], tensor, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_all_processes_return_the_same_bits(shards, name):
    first, second = (found[name][1] for found, _ in shards)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_what_is_not_merged_is_refused(shards):
    for _, refused in shards:
        assert "The processes chose different nodes: Taylor" in refused[0]
        assert "trains in one process" in refused[1]


def test_sharded_data_need_a_process_group():
    with pytest.raises(mipp.MippError, match="no process group"):
        pruned(MIPP(), mipp.Calibration(batches(), sharded=True))


def test_without_shards_nothing_is_merged():
    moments = Moments(3)
    moments.update(torch.randn(5, 3))
    assert moments.pool() is moments
