"""torch's default device: our own tensors are on the CPU, and the caller's code has the default that it set."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_CALLERS: ContextVar[torch.device | None] = ContextVar("callers", default=None)


@contextmanager
def own_default_device() -> Iterator[None]:
    """Runs a block with the CPU as default device; costs nothing where it is."""
    default = torch.get_default_device()
    if default.type == "cpu":
        yield
        return
    before = _CALLERS.set(default)
    try:
        with torch.device("cpu"):
            yield
    finally:
        _CALLERS.reset(before)


@contextmanager
def callers_default_device() -> Iterator[None]:
    """Runs a block of the caller's code, such as a forward pass, with the default device that was found."""
    default = _CALLERS.get()
    if default is None:
        yield
        return
    with default:
        yield


def accelerator() -> torch.device | None:
    """The accelerator of this machine, None if there is none."""
    try:
        return torch.accelerator.current_accelerator()
    except RuntimeError:  # what torch 2.6 says of it
        return None
