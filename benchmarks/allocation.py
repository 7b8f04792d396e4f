"""How many nodes each layer keeps: widths found by trials, judged without labels on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.allocation --weights FOLDER

No label and no test image is read.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, calibration, pretrained
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.methods import MIPP

HELD_OUT = 4096
BUDGETS = {"resnet20": (0.5,), "resnet56": (1 / 2.11, 1 / 2.57)}
TRIALS = (0, 16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pretrained .safetensors files")
    parser.add_argument("--networks", nargs="+", default=list(BUDGETS))
    parser.add_argument("--trials", nargs="+", type=int, default=TRIALS)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    record = Record("allocation", samples=SAMPLES, held_out=HELD_OUT, excluded=EXCLUDED[0])
    train = zoo.load("cifar10", "train")
    for name in options.networks:
        model = pretrained(name, options.weights)
        for draw in range(options.draws):
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
            held_out = train.normalised(order[-HELD_OUT:])
            said = logits(model, held_out)
            for macs in BUDGETS[name]:
                for trials in options.trials:
                    key = {"network": name, "macs": round(macs, 4), "draw": draw, "trials": trials}
                    run = partial(pruned, model, calibration(train, draw), macs, trials, draw, held_out, said)
                    record.measure(key, run)


def pruned(
    model: nn.Module, images: Tensor, macs: float, trials: int, draw: int, held_out: Tensor, said: Tensor
) -> Row:
    """One run: agreement with the dense network in percent, KL(dense || pruned) in nats, seconds, widths."""
    start = time.perf_counter()
    budget, method = mipp.Budget(macs=macs), MIPP(trials=trials)
    result = mipp.prune(model, [images], budget, method, exclude=EXCLUDED, seed=draw, progress=False)
    seconds = time.perf_counter() - start
    found = logits(result.model, held_out)
    logs = found.log_softmax(1), said.log_softmax(1)
    return {
        "agreement": round(100 * float((found.argmax(1) == said.argmax(1)).double().mean()), 2),
        "kl": round(float(torch.nn.functional.kl_div(*logs, log_target=True, reduction="batchmean")), 4),
        "seconds": round(seconds, 2),
        "phases": {k: round(v, 2) for k, v in result.report.seconds.items()},
        "widths": result.plan.widths,
    }


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part) for part in images.split(256)])


if __name__ == "__main__":
    main()
