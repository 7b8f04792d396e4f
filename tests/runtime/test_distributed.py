"""Processes that each have a share of the calibration data prune as one that has all of it."""

import importlib
import os
import re
import time
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
from mipp.runtime.distributed import merge_shards
from mipp.statistics.moments import Moments

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
    calls = (
        lambda: pruned(Taylor(), data),
        lambda: mipp.prune(network(), data, recover="distill"),
        lambda: mipp.select_inputs(network(), data, num_features=3),
    )
    for call in calls:
        try:
            call()
        except mipp.MippError as error:
            refused.append(str(error))
    torch.save((found, refused, mipp.information(network(), data)), f"{folder}/{rank}.pt")
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
    for found, *_ in shards:
        kept, state = found[name]
        assert kept == expected.plan.kept
        for key, tensor in expected.model.state_dict().items():
            torch.testing.assert_close(state[key], tensor, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_all_processes_return_the_same_bits(shards, name):
    first, second = (found[name][1] for found, *_ in shards)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_what_is_not_merged_is_refused(shards):
    for _, refused, _ in shards:
        assert "The processes chose different nodes: Taylor" in refused[0]
        assert "trains in one process" in refused[1]
        assert "in one process" in refused[2]


def test_information_is_that_of_all_data(shards):
    expected = mipp.information(network(), batches())
    for *_, found in shards:
        assert found == pytest.approx(expected, rel=1e-7)


def test_sharded_data_need_a_process_group():
    with pytest.raises(mipp.MippError, match="no process group"):
        pruned(MIPP(), mipp.Calibration(batches(), sharded=True))


def test_a_group_of_its_own_is_given_back():
    """Beside a process group that carries no messages between CPUs, mipp makes one."""
    importlib.import_module("torch.testing._internal.distributed.fake_pg")  # which makes the backend known
    dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=1)
    try:
        before = dict(dist.distributed_c10d._world.pg_map)
        with merge_shards(True):
            assert len(dist.distributed_c10d._world.pg_map) == len(before) + 1
        assert dist.distributed_c10d._world.pg_map == before
    finally:
        dist.destroy_process_group()


def test_without_shards_nothing_is_merged():
    moments = Moments(3)
    moments.update(torch.randn(5, 3))
    assert moments.pool() is moments


class Scaled(Network):
    """Computes with a number that is no weight."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = (by,)

    def forward(self, x):
        return super().forward(x) * self.by[0]


def scaled(by: float) -> nn.Module:
    torch.manual_seed(0)
    return Scaled(by).double().eval()


def raising(model):
    raise ValueError("the disk of rank 1 is gone")


FAULTS = {
    "weights": lambda rank: {"model": network() if rank == 0 else torch.manual_seed(7) and Network().double().eval()},
    "architecture": lambda rank: {"model": network() if rank == 0 else nn.Conv2d(3, 5, 3).double()},
    "numbers": lambda rank: {"model": scaled(1.0 + rank)},
    "seed": lambda rank: {"seed": rank},
    "budget": lambda rank: {"budget": mipp.Budget(macs=0.5 + 0.1 * rank)},
    "raises": lambda rank: {"evaluate": raising if rank else None},
    "refused": lambda rank: {"exclude": ["nothing of this name"] if rank else []},
    "ends": lambda rank: {"evaluate": (lambda model: os._exit(3)) if rank else None},
}
EXPECTED = {
    "weights": r"rank 1 in the model \(weights",
    "architecture": r"rank 1 in the model \(architecture",
    "numbers": r"rank 1 in the model \(layers",
    "seed": r"rank 1 in the options \(seed",
    "budget": r"rank 1 in the options \(budget",
    "raises": r"because rank 1 raised ValueError: the disk of rank 1 is gone",
    "refused": r"rank 1 in the options \(exclude",
    "ends": r"because rank 1 has ended",
}


def fail(rank: int, world: int, folder: str) -> None:
    """Runs each fault in turn; the last one ends a process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    said = {}
    for name, fault in FAULTS.items():
        options = {"model": network(), "budget": mipp.Budget(macs=0.5), **fault(int(rank == 1))}
        data = mipp.Calibration(batches()[:2], sharded=True)
        begun = time.monotonic()
        try:
            mipp.prune(calibration=data, method=L1(), compensate=False, progress=False, **options)
        except Exception as error:
            said[name] = type(error).__name__, str(error), time.monotonic() - begun
        torch.save(said, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failures")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    started = mp.spawn(fail, (3, str(folder)), 3, join=False)
    for process in started.processes:
        process.join(120)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


@pytest.mark.parametrize("fault", FAULTS)
def test_all_ranks_stop_and_say_which_is_to_blame(failures, fault):
    for rank, said in enumerate(failures):
        if (fault, rank) == ("ends", 1):
            continue
        kind, text, seconds = said[fault]
        if (fault, rank) == ("raises", 1):
            assert (kind, text) == ("ValueError", "the disk of rank 1 is gone")
            continue
        assert kind in ("MippError", "RankError")
        assert re.search(EXPECTED[fault], text)
        assert seconds < 30
