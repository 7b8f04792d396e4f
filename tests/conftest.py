"""One thread per process (pytest-xdist provides the second), and the same random numbers in every run."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read once, when numpy and torch are first imported

import hypothesis
import pytest
import torch

from mipp.plan.latency import TIMERS

torch.set_num_threads(1)
hypothesis.settings.register_profile("mipp", derandomize=True, deadline=None)
hypothesis.settings.load_profile("mipp")


class TorchGenerator:
    """torch's global generator as Hypothesis wants it, which then resets it before every example."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


GENERATOR = TorchGenerator()  # Hypothesis holds it weakly
hypothesis.register_random(GENERATOR)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds torch before each test; the value is the seed."""
    torch.manual_seed(0)
    return 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without measuring the latency, which takes most of the time of a tiny run."""
    monkeypatch.setitem(TIMERS, "torch", lambda *_: 1.0)
