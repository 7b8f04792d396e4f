"""Runs `mipp.prune` in children that a test may kill: one line on stdin, CHECKPOINT RESULT, is one run.

Answers "READY pid" when the child begins and "DONE status" when it has ended.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

import mipp
import mipp.plan.latency
from mipp.zoo import CifarResNet


def run(checkpoint: str, result: str) -> None:
    torch.manual_seed(0)
    model = CifarResNet(8, num_classes=5, widths=(4, 6, 8)).eval()
    batches = [torch.randn(8, 3, 8, 8) for _ in range(9)]
    recover = mipp.Distillation(epochs=3)
    pruned = mipp.prune(model, batches, mipp.Budget(macs=0.5), recover=recover, progress=False, checkpoint=checkpoint)
    state = [t.numpy().tobytes() for t in pruned.model.state_dict().values()]
    answer = {"plan": pruned.plan.to_dict(), "weights": hashlib.sha256(b"".join(state)).hexdigest()}
    Path(result).write_text(json.dumps({**answer, "resumed": pruned.resumed, "notes": pruned.report.notes}))


def main() -> None:
    torch.set_num_threads(1)
    mipp.plan.latency.latency_ms = lambda *_: 1.0
    with tempfile.TemporaryDirectory() as folder:  # children do not load again what torch loads late
        run(f"{folder}/checkpoint", f"{folder}/result")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _say("READY", os.getpid())
            run(*line.split())
            os._exit(0)
        _say("DONE", os.waitpid(child, 0)[1])


def _say(word: str, number: int) -> None:
    sys.stdout.write(f"{word} {number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
