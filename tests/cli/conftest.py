"""Every test of the command runs in a folder of its own, with the module `nets` in it."""

import sys

import numpy as np
import pytest
import torch
from command_line import NETS
from safetensors.torch import save_file

from mipp.plan.latency import TIMERS


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """An empty current directory with the module `nets`, and an import state that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setitem(TIMERS, "torch", lambda *_: 1.0)  # measuring takes its time
    (tmp_path / "nets.py").write_text(NETS)
    np.save("data.npy", np.random.default_rng(0).normal(size=(64, 4)))
    save_file({"input": torch.randn(64, 4), "labels": torch.randint(0, 3, (64,))}, "data.safetensors")
    yield
    sys.modules.pop("nets", None)
