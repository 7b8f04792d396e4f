"""Interrupted runs: killed at any moment they go on to the same result; Ctrl-C leaves nothing behind."""

import math
import os
import random
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from kills import SCENARIOS, Runs, kill_at_random, lines
from torch import nn

import mipp
import mipp.refit.losses
from mipp.graph.trace import forward
from mipp.modules.copies import working_copy
from mipp.plan.latency import TIMERS


@pytest.fixture
def runs():
    made = Runs()
    yield made
    made.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_goes_on_to_the_same_result(kills, runs, tmp_path):
    """The moments are spread over the run; each killed run is started again until one survives."""
    expected, seconds = runs(tmp_path)
    assert not expected.pop("resumed")
    generator, total = random.Random(0), lines(tmp_path)
    steps = set()
    for kill in range(kills):
        folder = tmp_path / str(kill)
        folder.mkdir()
        runs(folder, kill * total // kills, generator.random() * seconds / total)
        begun = lines(folder)
        steps.add(begun)
        answer, _ = runs(folder)
        assert answer.pop("resumed") == (begun > 0)
        assert answer == expected
    assert len(steps) > 1  # it was hit in several phases


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS[:3]] + [*SCENARIOS[3:]]
)
def test_runs_of_all_kinds_go_on_to_the_same_result(scenario, tmp_path):
    """`make kills` kills a hundred."""
    made = Runs(scenario)
    found = kill_at_random(made, tmp_path, 2, random.Random(1))
    made.close()
    assert found["the same"] == 2


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_gets_there(runs, tmp_path):
    expected, _ = runs(tmp_path)
    (tmp_path / "again").mkdir()
    for part in (0.3, 0.5, 0.8):
        runs(tmp_path / "again", round(part * lines(tmp_path)))
    answer, _ = runs(tmp_path / "again")
    assert (answer["plan"], answer["weights"]) == (expected["plan"], expected["weights"])


class Counted(nn.Sequential):
    """Counts the passes of all its copies, and the runs of their ops one by one, and interrupts one of them."""

    passes, interrupted = 0, -1

    def forward(self, x):
        Counted.count()
        return super().forward(x)

    @staticmethod
    def count():
        Counted.passes += 1
        if Counted.passes == Counted.interrupted:
            raise KeyboardInterrupt


def counted() -> Counted:
    torch.manual_seed(1)
    Counted.passes, Counted.interrupted = 0, -1
    return Counted(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)).train()


def test_ctrl_c_in_any_pass_leaves_no_trace(tmp_path, monkeypatch):
    """Model, hooks, modes, random state and disk are as before, and the checkpoint serves the next run."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setitem(TIMERS, "torch", lambda model, call: len(forward(working_copy(model), call)))
    executed = mipp.refit.losses.execute
    monkeypatch.setattr("mipp.refit.losses.execute", lambda *args: [Counted.count(), executed(*args)])
    data, recover = [torch.randn(16, 4) for _ in range(8)], mipp.Distillation(seconds=math.inf, epochs=3)

    def run(model, **options):
        return mipp.prune(
            model, iter(data), mipp.Budget(nodes=0.5), recover=recover, memory_limit=100, progress=False, **options
        )

    expected = run(counted())
    total = Counted.passes
    assert total > 20
    for number in range(1, total + 1, max(total // 8, 1)):
        model = counted()
        Counted.interrupted = number
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modes = [m.training for m in model.modules()]
        random_state = torch.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            run(model, checkpoint=tmp_path / str(number))
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
        assert [m.training for m in model.modules()] == modes
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert torch.equal(torch.get_rng_state(), random_state)
        assert list((tmp_path / "temporary").glob("*mipp*")) == []
        again = run(counted(), checkpoint=tmp_path / str(number))
        assert again.plan == expected.plan
        pairs = zip(again.model.state_dict().values(), expected.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_ctrl_c_while_saving_leaves_no_folder(tmp_path, monkeypatch):
    result = mipp.prune(counted().eval(), [torch.randn(16, 4)], mipp.Budget(nodes=0.5), progress=False)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mipp.report.Report.to_html", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


SLOW = """
import sys, time
from torch import nn

class Slow(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    def forward(self, x):
        print("READY", file=sys.stderr, flush=True)
        time.sleep(0.5)
        return super().forward(x)
"""


def _heed_interrupts() -> None:
    """Tests that run in the background of a shell ignore SIGINT, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_the_command_with_130_and_one_word(tmp_path):
    (tmp_path / "nets.py").write_text(SLOW)
    np.save(tmp_path / "data.npy", torch.randn(64, 4).numpy())
    command = [sys.executable, "-c", "from mipp.cli import main; main()", "prune", "nets:Slow", "--data", "data.npy"]
    options = ["--nodes", "4", "--out", "small", "--checkpoint", "point", "--quiet"]
    started = subprocess.Popen(
        [*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )
    for line in started.stderr:
        if line.startswith("READY"):
            break
    started.send_signal(signal.SIGINT)
    _, rest = started.communicate(timeout=60)
    assert started.returncode == 130
    assert rest.replace("READY\n", "") == "Interrupted.\n"
    assert not (tmp_path / "small").exists()
