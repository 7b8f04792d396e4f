"""Runs a block in a state of torch of its own, whatever the caller's is."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from mipp.runtime.default_device import own_default_device


@contextmanager
def isolate(seed: int) -> Iterator[None]:
    """Runs a block with its own random state and default device, with gradients, in full precision.

    The caller's settings are as they were afterwards.
    """
    accelerator = torch.accelerator.current_accelerator() or torch.device("cuda")
    with ExitStack() as stack:
        for kind in filter(torch.is_autocast_enabled, ("cpu", accelerator.type)):
            # without the cache: it is emptied at the end of the outermost block, and weights are trained inside of it
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        stack.enter_context(own_default_device())
        devices = range(torch.accelerator.device_count())
        stack.enter_context(torch.random.fork_rng(devices, device_type=accelerator.type))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        torch.manual_seed(int(seed))
        yield
