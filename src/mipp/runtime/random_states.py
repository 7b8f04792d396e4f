"""The random states of Python, NumPy and torch: our own in a block, and the caller's again afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from mipp.runtime.default_device import accelerator


@contextmanager
def own_random_states(seed: int | None = None) -> Iterator[None]:
    """Runs a block with random states of its own: Python's, NumPy's and torch's, the latter on all devices.

    Args:
        seed: What they begin with; None: with the caller's.
    """
    device = accelerator() or torch.device("cuda")
    devices = range(torch.accelerator.device_count())
    if seed is None and device.type == "cuda" and not torch.cuda.is_initialized():
        devices = range(0)  # to ask for states would start it, which takes seconds and breaks processes forked later
    python = random.getstate()
    numpy = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices, device_type=device.type):
            if seed is not None:
                torch.manual_seed(int(seed))
                random.seed(int(seed))
                np.random.seed(int(seed) % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
