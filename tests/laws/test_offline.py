"""Without a network, and with a home that nobody can write to, everything works as usual."""

import shutil
import subprocess
import sys

import pytest

CODE = """
import torch, mipp
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
result = mipp.prune(model, [torch.randn(32, 4)], mipp.Budget(nodes=0.5), progress=False, checkpoint="point")
result.save("out")
assert torch.equal(mipp.load("out", model)(torch.ones(1, 4)), result.model(torch.ones(1, 4)))
"""


def without_network() -> list[str]:
    """The command that runs another one in a network namespace without interfaces; empty where that is not allowed."""
    command = ["unshare", "--net", "--map-root-user"]
    allowed = shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True).returncode
    return command if allowed else []


def test_no_network_and_no_home_are_needed(tmp_path):
    if not (apart := without_network()):
        pytest.skip("network namespaces are not allowed here")
    environment = {"HOME": "/proc/nowhere", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    run = [*apart, sys.executable, "-c", CODE]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"point", "out"}
