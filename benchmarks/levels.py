"""Levels of effort, and what else makes a call cheaper: its passes, and agreement with the dense network.

    MIPP_DATA_DIR=... python -m benchmarks.levels --weights FOLDER [--network NAME] [--choice NAME] [--draws N]

Agreement is the share of training images outside of the calibration data on which both networks say the same class.
Passes are those of the dense network over the 1,024 images that are read by default, or over the 128 that the ResNet-50
is given: it has random weights, and no agreement. No test image is read. Seconds are those of the processor. LeNet-5 is
trained for five epochs unless its weights are in the folder; networks of `benchmarks.cifar_networks` that are not there
are left out.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import mipp
from benchmarks.allocation import HELD_OUT, agreement, drawn, logits
from benchmarks.cifar import EXCLUDED, SAMPLES, WEIGHTS
from benchmarks.cifar_networks import dense, path_of
from benchmarks.imagenet_networks import resnet
from benchmarks.passes import Job, pass_seconds
from benchmarks.record import Record, Row
from benchmarks.workloads import trained_lenet5
from mipp import zoo
from mipp.methods import MIPP
from mipp.plan.effort import DEFAULT, EFFORTS, Effort

LARGE, FEW = "resnet50 at 224", 128
BUDGETS: Mapping[str, dict[str, float]] = {
    "lenet5": {"nodes": 0.1},
    "resnet20": {"macs": 0.5},
    "resnet56": {"macs": 1 / 2.11},
    "vit": {"macs": 0.7},
    LARGE: {"macs": 0.5},
}
LEVERS: Mapping[str, tuple[Effort, MIPP]] = {
    "one step": (DEFAULT, MIPP(steps=1)),
    "eight steps": (DEFAULT, MIPP(steps=8)),
    "16 positions in selection": (DEFAULT, MIPP(positions=16)),
    "256 positions in selection": (DEFAULT, MIPP(positions=256)),
    "32 rows an input in the refit": (Effort(rows_per_input=32, fewest=1024), MIPP()),
    "512 samples": (Effort(samples=512), MIPP()),
    "256 samples": (Effort(samples=256), MIPP()),
    "128 samples": (Effort(samples=128), MIPP()),
}
CHANGED = ("lenet5", "resnet20")
"""Networks whose first draw tells what one change alone does."""


def main() -> None:
    """Measures what is missing, and writes benchmarks/results/levels.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", action="append", choices=BUDGETS, help="all of them by default")
    parser.add_argument("--choice", action="append", choices=[*EFFORTS, *LEVERS], help="all of them by default")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    record = Record("levels", samples=SAMPLES, held_out=HELD_OUT, excluded=EXCLUDED[0])
    for network in options.network or BUDGETS:
        if network not in ("lenet5", LARGE) and not path_of(options.weights, network).exists():
            continue
        for draw, choice in product(range(options.draws), options.choice or [*EFFORTS, *LEVERS]):
            changed = choice in LEVERS and (network not in CHANGED or draw)
            if changed or (network == LARGE and (draw or choice == "best")):
                continue
            amounts = {name: round(amount, 4) for name, amount in BUDGETS[network].items()}
            key = {"network": network, **amounts, "choice": choice, "draw": draw}
            record.measure(key, partial(measure, network, options.weights, choice, draw))


def measure(network: str, weights: Path, choice: Any, draw: int) -> Row:
    """Passes and seconds of one call, samples that it read, and agreement and KL(dense || pruned) afterwards."""
    model, budget = _network(network, weights), mipp.Budget(**BUDGETS[network])  # type: ignore[arg-type]
    images, held_out = _images(network, draw)
    one_pass, exclude = _one_pass(network, weights), EXCLUDED if network in WEIGHTS else ()
    effort, method = LEVERS.get(choice) or (EFFORTS[choice], MIPP())
    with patch.dict(EFFORTS, {choice: effort}):
        start = time.process_time()
        result = mipp.prune(
            model, _batches(network, images), budget, method, exclude=exclude, effort=choice, seed=draw, progress=False
        )
        seconds = time.process_time() - start
    row = {
        "samples": min(len(images), effort.samples),
        "passes": round(seconds / one_pass, 2),
        "one pass, seconds": round(one_pass, 3),
        "seconds": round(seconds, 2),
    }
    return (
        row if held_out is None else {**row, **agreement(_said(network, weights, draw), logits(result.model, held_out))}
    )


@cache
def _one_pass(network: str, weights: Path) -> float:
    images = _images(network, 0)[0][:SAMPLES]
    return pass_seconds(Job(_network(network, weights), _batches(network, images), mipp.Budget()))


@cache
def _said(network: str, weights: Path, draw: int) -> Tensor:
    """Logits of the dense network on the images to judge by."""
    _, held_out = _images(network, draw)
    assert held_out is not None
    return logits(_network(network, weights), held_out)


def _batches(network: str, images: Tensor) -> Sequence[Tensor]:
    return images.split(32 if network == LARGE else 128)


def _images(network: str, draw: int) -> tuple[Tensor, Tensor | None]:
    """A draw of as many images as any level reads, and others to judge by; noise for a network that knows nothing."""
    if network == LARGE:
        return torch.randn(FEW, 3, 224, 224, generator=torch.Generator().manual_seed(draw)), None
    return drawn(_data(network), draw, max(effort.samples for effort in EFFORTS.values()))


@cache
def _network(name: str, weights: Path) -> nn.Module:
    if name == LARGE:
        return resnet(name.split()[0])
    return trained_lenet5(0, weights) if name == "lenet5" else dense(name, weights)


@cache
def _data(network: str) -> zoo.ImageData:
    return zoo.load("mnist" if network == "lenet5" else "cifar10", "train")


if __name__ == "__main__":
    main()
