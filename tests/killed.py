"""Runs in children that a test may kill: one line on stdin, FOLDER RESULT, is one run of the scenario in argv.

Answers "READY pid" when the child begins and "DONE status" when it has ended.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mipp
from mipp.plan.latency import TIMERS
from mipp.zoo import CifarResNet

Answer = dict[str, Any]


def images(**options: Any) -> Callable[[str], Answer]:
    """A small residual network, pruned and distilled."""

    def run(checkpoint: str) -> Answer:
        torch.manual_seed(0)
        model = CifarResNet(8, num_classes=5, widths=(4, 6, 8)).eval()
        batches = [torch.randn(8, 3, 8, 8) for _ in range(9)]
        recover = mipp.Distillation(epochs=3, **options)
        return describe(
            mipp.prune(model, batches, mipp.Budget(macs=0.5), recover=recover, progress=False, checkpoint=checkpoint)
        )

    return run


def vectors(checkpoint: str, method: mipp.methods.Method, budget: mipp.Budget, **options: Any) -> Answer:
    """A small network of linear layers, pruned by a method."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [torch.randn(64, 6) for _ in range(4)]
    return describe(mipp.prune(model, batches, budget, method, progress=False, checkpoint=checkpoint, **options))


def perceptrons(checkpoint: str) -> Answer:
    """The method of the paper: perceptrons, trained on after every node."""
    settings = {"confidence": 0.9, "initial_iterations": 40, "retrain_iterations": 10, "hidden": (16,)}
    return vectors(checkpoint, mipp.methods.MIPP.paper(**settings), mipp.Budget())


def training(checkpoint: str) -> Answer:
    """A method that trains the network and rewinds it."""

    def train(model: nn.Module, *, fraction: float = 1.0, after_step: Callable[[], None] | None = None) -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(round(60 * fraction)):
            optimizer.zero_grad()
            model(torch.randn(32, 6)).square().mean().backward()
            optimizer.step()
            if after_step is not None:
                after_step()

    return vectors(checkpoint, mipp.methods.IMP(), mipp.Budget(nodes=0.5), train=train, compensate=mipp.Refit())


def compare(folder: str) -> Answer:
    """A table of the command line; a network is trained before it is pruned by two methods."""
    from typer.testing import CliRunner

    from mipp.cli import app

    options = {
        "model": "mipp.zoo:DigitsCNN",
        "data": "digits",
        "methods": "l1,l2",
        "budgets": "nodes=0.5",
        "out": folder,
    }
    numbers = {"max-samples": "64", "before-epochs": "1", "seeds": "0"}
    given = [word for name, value in {**options, **numbers}.items() for word in (f"--{name}", value)]
    found = CliRunner().invoke(app, ["compare", *given, "--json", "--quiet"])
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    rows = [
        {name: value for name, value in row.items() if name not in ("seconds", "machine")} for row in answer["rows"]
    ]
    return {"rows": rows, "resumed": answer["resumed"]}


SCENARIOS = {
    "network": images(),
    "regions": images(by="blocks"),
    "perceptrons": perceptrons,
    "training": training,
    "compare": compare,
}


def describe(pruned: mipp.Result) -> Answer:
    """The result of a run, to the last bit."""
    state = [t.numpy().tobytes() for t in pruned.model.state_dict().values()]
    weights = hashlib.sha256(b"".join(state)).hexdigest()
    notes = list(pruned.report.notes)
    return {"plan": pruned.plan.to_dict(), "weights": weights, "resumed": pruned.resumed, "notes": notes}


def run(name: str, folder: str, result: str) -> None:
    part = Path(f"{result}.part")
    part.write_text(json.dumps(SCENARIOS[name](folder)))
    part.replace(result)


def main(name: str) -> None:
    torch.set_num_threads(1)
    TIMERS["torch"] = lambda *_: 1.0
    with tempfile.TemporaryDirectory() as folder:  # children do not load again what torch loads late
        run(name, f"{folder}/checkpoint", f"{folder}/result")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _say("READY", os.getpid())
            run(name, *line.split())
            os._exit(0)
        _say("DONE", os.waitpid(child, 0)[1])


def _say(word: str, number: int) -> None:
    sys.stdout.write(f"{word} {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
