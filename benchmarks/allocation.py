"""Choices of MIPP about the widths of layers, judged without labels on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.allocation --weights FOLDER [--network NAME] [--choice NAME] [--draws N]

No test image is read, and no label but those with which LeNet-5 is trained. Networks whose weights are not in the
folder are left out.
"""

import argparse
import time
from collections.abc import Mapping
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, WEIGHTS
from benchmarks.cifar_networks import dense, path_of
from benchmarks.record import Record, Row
from benchmarks.workloads import EPOCHS, lenet5
from mipp import zoo
from mipp.methods import MIPP

HELD_OUT = 4096
BUDGETS: Mapping[str, tuple[dict[str, float], ...]] = {
    "lenet5": ({"nodes": 0.3}, {"nodes": 0.1}, {"params": 0.2}, {"params": 0.05}, {"macs": 0.3}),
    "vgg11": ({"params": 0.2},),
    "resnet20": ({"macs": 0.5}, {"macs": 1 / 3}),
    "resnet56": ({"macs": 1 / 2.11}, {"macs": 1 / 2.57}),
}
CHOICES: Mapping[str, dict[str, Any]] = {
    "default": {},
    "steps=1": {"steps": 1},
    "steps=8": {"steps": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", action="append", choices=BUDGETS, help="all of them by default")
    parser.add_argument("--choice", action="append", choices=CHOICES, help="all of them by default")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    record = Record("allocation", samples=SAMPLES, held_out=HELD_OUT, excluded=EXCLUDED[0])
    networks = options.network or BUDGETS
    for network in (n for n in networks if n == "lenet5" or path_of(options.weights, n).exists()):
        for draw, budget, choice in product(range(options.draws), BUDGETS[network], options.choice or CHOICES):
            amounts = {name: round(amount, 4) for name, amount in budget.items()}
            key = {"network": network, **amounts, "choice": choice, "draw": draw}
            record.measure(key, partial(pruned, network, options.weights, budget, CHOICES[choice], draw))


def pruned(network: str, weights: Path, budget: Mapping[str, float], choice: dict[str, Any], draw: int) -> Row:
    """One run: agreement with the dense network in percent, KL(dense || pruned) in nats, seconds, widths."""
    model, data = _network(network, weights), _data(network)
    images, held_out = drawn(data, draw, SAMPLES)
    start = time.perf_counter()
    result = mipp.prune(
        model, list(images.split(128)), mipp.Budget(**budget), MIPP(**choice),  # type: ignore[arg-type]
        exclude=EXCLUDED if network in WEIGHTS else (), seed=draw, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
        **agreement(logits(model, held_out), logits(result.model, held_out)),
        "seconds": round(seconds, 2),
        "phases": {k: round(v, 2) for k, v in result.report.seconds.items()},
        "widths": result.plan.widths,
    }


def agreement(said: Tensor, found: Tensor) -> Row:
    """Share of the classes, in percent, that two networks say alike, and KL(first || second), from their logits."""
    logs = found.log_softmax(1), said.log_softmax(1)
    return {
        "agreement": round(100 * float((found.argmax(1) == said.argmax(1)).double().mean()), 2),
        "kl": round(float(F.kl_div(*logs, log_target=True, reduction="batchmean")), 4),
    }


@cache
def _network(name: str, weights: Path) -> nn.Module:
    if name != "lenet5":
        return dense(name, weights)
    model = lenet5(0)
    zoo.fit(model, _data(name), epochs=EPOCHS, batch_size=128)
    return model.eval()


@cache
def _data(network: str) -> zoo.ImageData:
    return zoo.load("mnist" if network == "lenet5" else "cifar10", "train")


def drawn(data: zoo.ImageData, draw: int, samples: int, held_out: int = HELD_OUT) -> tuple[Tensor, Tensor]:
    """Training images to calibrate on, and others to judge by."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(draw))
    return data.normalise(order[:samples]), data.normalise(order[-held_out:])


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part) for part in images.split(256)])


if __name__ == "__main__":
    main()
