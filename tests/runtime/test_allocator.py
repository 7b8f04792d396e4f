"""Freed memory between other tensors is given back to the system."""

import ctypes
import platform
from pathlib import Path

import pytest
import torch

from mipp.runtime import allocator
from mipp.runtime.allocator import give_back


def resident() -> int:
    """Pages of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing is promised")
def test_freed_memory_is_given_back():
    torch.empty(2**25, dtype=torch.uint8).fill_(1)  # from now on tensors of this size lie in the heap
    tensors = [torch.ones(2**20) for _ in range(40)]
    before = resident()
    del tensors[:-1:2]
    give_back()
    assert before - resident() > 15 * 2**22 / 4096
    assert all(bool((tensor == 1).all()) for tensor in tensors)


def test_without_such_a_library_nothing_happens(monkeypatch):
    def missing(_: object) -> None:
        raise OSError

    allocator._trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    give_back()
    allocator._trim.cache_clear()
