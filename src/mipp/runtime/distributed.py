"""Statistics of several processes, each of which has a share of the calibration data.

Inside `merge_shards(True)` the functions below go through the default process group of `torch.distributed`; all
processes have to call them in the same order. Elsewhere they return what they are given. Before anything is merged each
process tells each other what it is about to merge, or that it failed: where one fails, all stop, and none waits for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mipp.errors import MippError, RankError

Item = TypeVar("Item")
_HEARD = timedelta(seconds=10)
"""For so long a process that failed waits for the others to hear of it; later they find that it has ended."""
_LENGTH = 1024
_FAILED, _DONE, _ENDED = "failed: ", "is done", "has ended"
_UNHEARD: list[Any] = []
"""Messages that are under way when a process goes on: their memory has to stay."""


class _Ranks:
    """The processes that prune together.

    Args:
        group: Carries messages between CPUs.
    """

    def __init__(self, group: Any) -> None:
        self.group, self.rank, self.size = group, dist.get_rank(), dist.get_world_size()
        self._number = 0

    def announce(self, message: str, wait: timedelta | None = None) -> list[str]:
        """Tells all others a message, and returns those of all, in the order of their ranks.

        Args:
            message: At most 1,024 bytes of it are told.
            wait: For how long to wait for each of the others; None: as long as the process group does.
        """
        self._number += 1
        own = _encode(message)
        inbox = {rank: torch.zeros(_LENGTH, dtype=torch.uint8) for rank in range(self.size) if rank != self.rank}
        works: dict[int, list[Any]] = {rank: [] for rank in inbox}
        found = {self.rank: message}
        for rank, buffer in inbox.items():
            try:
                works[rank].append(dist.irecv(buffer, rank, self.group, self._number))
                works[rank].append(dist.isend(own, rank, self.group, self._number))
            except RuntimeError as error:
                found[rank] = f"{_FAILED}{_describe(error)}"
        for rank, buffer in inbox.items():
            try:
                for work in works[rank]:
                    work.wait(wait) if wait is not None else work.wait()
                found.setdefault(rank, _decode(buffer))
            except RuntimeError as error:
                found[rank] = f"{_FAILED}{_describe(error)}"
        if wait is not None:
            _UNHEARD.append((own, inbox, works))
        return [found[rank] for rank in range(self.size)]

    def agree(self, step: str) -> None:
        """Waits until all processes are at the same step.

        Raises:
            RankError: One failed, has ended, or is at another step.
        """
        found = self.announce(step)
        failed = [
            f"rank {rank} {said.removeprefix(_FAILED)}" for rank, said in enumerate(found) if said.startswith(_FAILED)
        ]
        if failed:
            failed = [line for line in failed if line.endswith(_ENDED)] or failed  # the others only noticed
            raise RankError(
                f"All processes that prune together stop, because {'; '.join(failed)}. Mend that, and start all."
            )
        other = [f"rank {rank}: {said}" for rank, said in enumerate(found) if said != found[0]]
        if other:
            raise RankError(
                f"The processes that prune together do not do the same; rank 0: {found[0]}, {', '.join(other)}. Give "
                "all of them the same model, method, budget, options and kind of data."
            )


_RANKS: ContextVar[_Ranks | None] = ContextVar("ranks", default=None)


@contextmanager
def merge_shards(on: bool) -> Iterator[None]:  # noqa: FBT001
    """Merges the statistics of all processes within the block, if `on`; they leave it together, or all fail.

    Raises:
        MippError: There is no process group.
        RankError: Another process failed.
    """
    if not on:
        yield
        return
    if not (dist.is_available() and dist.is_initialized()):
        raise MippError(
            "Calibration(sharded=True) merges the statistics of several processes, but there is no process group. "
            "Start them with torchrun, and call torch.distributed.init_process_group() in each before pruning."
        )
    own = None if "gloo" in dist.get_backend_config() else dist.new_group(backend="gloo")
    ranks = _Ranks(own)
    token = _RANKS.set(ranks)
    try:
        yield
        ranks.agree(_DONE)
        if own is not None:  # where one failed it stays: others have yet to read of it
            dist.destroy_process_group(own)
    except RankError:
        raise
    except BaseException as error:
        ranks.announce(f"{_FAILED}raised {_describe(error)}", _HEARD)
        raise
    finally:
        _RANKS.reset(token)


def is_sharded() -> bool:
    """True where statistics of all processes are merged."""
    return _RANKS.get() is not None


def sum_shards(tensor: Tensor) -> Tensor:
    """The sum over the processes; the same bits in each.

    Raises:
        RankError: Another process failed.
    """
    ranks = _RANKS.get()
    if ranks is None:
        return tensor
    total = tensor.clone(memory_format=torch.contiguous_format)
    ranks.agree(f"merges {tuple(total.shape)} {total.dtype}".replace("torch.", ""))
    with _naming(ranks):
        dist.all_reduce(total)
    return total


def gather(item: Item) -> list[Item]:
    """The objects of all processes in the order of their ranks; tensors should be on the CPU.

    Raises:
        RankError: Another process failed.
    """
    ranks = _RANKS.get()
    if ranks is None:
        return [item]
    items: list[Item | None] = [None] * ranks.size
    ranks.agree(f"gathers {type(item).__name__}")
    with _naming(ranks):
        dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def place(samples: int) -> tuple[int, int]:
    """Number of this process's first sample among those of all, and how many they are together."""
    counts = gather(samples)
    return sum(counts[: dist.get_rank()]) if is_sharded() else 0, sum(counts)


@contextmanager
def _naming(ranks: _Ranks) -> Iterator[None]:
    """Finds out which process it was that ended while something was merged."""
    try:
        yield
    except RuntimeError as error:
        ranks.agree(f"{_FAILED}could not merge ({_describe(error)})")


def _describe(error: BaseException) -> str:
    """An error in one line; that a connection was closed says that its process has ended."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and ("imed out" in text or "imeout" in text):
        return "gave no sign of life within the time limit of the process group"
    if isinstance(error, RuntimeError) and ("onnection" in text or "ocket" in text or "peer" in text):
        return _ENDED
    return f"{type(error).__name__}: {text}"[:600]


def _encode(message: str) -> Tensor:
    content = message.encode()[:_LENGTH]
    return torch.frombuffer(bytearray(content.ljust(_LENGTH, b"\0")), dtype=torch.uint8).clone()


def _decode(buffer: Tensor) -> str:
    return bytes(buffer.tolist()).rstrip(b"\0").decode(errors="replace")
