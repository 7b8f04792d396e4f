"""Runs a block in settings and random states of its own, whatever the caller's are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from mipp.runtime.default_device import accelerator, own_default_device
from mipp.runtime.random_states import own_random_states


@contextmanager
def isolate(seed: int) -> Iterator[None]:
    """Runs a block with its own random states and default device, with gradients, in full precision.

    The caller's settings are as they were afterwards.
    """
    device = accelerator() or torch.device("cuda")
    with ExitStack() as stack:
        for kind in filter(torch.is_autocast_enabled, ("cpu", device.type)):
            # without the cache: it is emptied at the end of the outermost block, and weights are trained inside of it
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        stack.enter_context(own_default_device())
        stack.enter_context(own_random_states(seed))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        yield
