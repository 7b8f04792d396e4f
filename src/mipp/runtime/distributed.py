"""Statistics of several processes, each of which has a share of the calibration data.

Inside `merge_shards(True)` the functions below go through the default process group of `torch.distributed`; all
processes have to call them in the same order. Elsewhere they return what they are given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mipp.errors import MippError

Item = TypeVar("Item")
_SHARDED: ContextVar[bool] = ContextVar("sharded", default=False)


@contextmanager
def merge_shards(on: bool) -> Iterator[None]:  # noqa: FBT001
    """Merges the statistics of all processes within the block, if `active`.

    Raises:
        MippError: There is no process group.
    """
    if on and not (dist.is_available() and dist.is_initialized()):
        raise MippError(
            "Calibration(sharded=True) merges the statistics of several processes, but there is no process group. "
            "Start them with torchrun, and call torch.distributed.init_process_group() in each before pruning."
        )
    token = _SHARDED.set(on)
    try:
        yield
    finally:
        _SHARDED.reset(token)


def is_sharded() -> bool:
    """True where statistics of all processes are merged."""
    return _SHARDED.get()


def sum_shards(tensor: Tensor) -> Tensor:
    """The sum over the processes; the same bits in each."""
    if not is_sharded():
        return tensor
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def gather(item: Item) -> list[Item]:
    """The objects of all processes in the order of their ranks; tensors should be on the CPU."""
    if not is_sharded():
        return [item]
    items: list[Item | None] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def place(samples: int) -> tuple[int, int]:
    """Number of this process's first sample among those of all, and how many they are together."""
    counts = gather(samples)
    return sum(counts[: dist.get_rank()]) if is_sharded() else 0, sum(counts)
