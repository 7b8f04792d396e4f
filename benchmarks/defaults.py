"""The choice of the defaults: agreement with the dense network on training images outside the calibration set.

    MIPP_DATA_DIR=... python -m benchmarks.defaults --weights FOLDER

No label and no test image is read.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, calibration, pretrained
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.methods import MIPP

HELD_OUT = 4000
CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "noise=0.1": {"noise": 0.1},
    "noise=10": {"noise": 10.0},
    "noise=100": {"noise": 100.0},
    "order='mi'": {"order": "mi"},
    "positions=16": {"positions": 16},
    "ridge=1e-4": {"ridge": 1e-4},
    "ridge=1e-3": {"ridge": 1e-3},
    "ridge=1e-2": {"ridge": 1e-2},
    "stream included": {"exclude": ()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    train = zoo.load("cifar10", "train")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    held_out = train.normalise(order[SAMPLES : SAMPLES + HELD_OUT])
    model = pretrained("resnet20", options.weights)
    record = Record("defaults", network="resnet20", macs=0.5, samples=SAMPLES, held_out=HELD_OUT)
    images = calibration(train, 0)
    dense = predictions(model, held_out)
    for name, choice in CHOICES.items():
        record.measure({"choice": name}, partial(agreement, model, images, held_out, dense, **choice))


def agreement(
    model: nn.Module,
    images: Tensor,
    held_out: Tensor,
    dense: Tensor,
    ridge: float | None = None,
    exclude: tuple[str, ...] = EXCLUDED,
    **fields: Any,
) -> Row:
    """Percentage of held-out images on which the pruned network says what the dense one says."""
    refit = mipp.Refit() if ridge is None else mipp.Refit(ridge=ridge)
    budget = mipp.Budget(macs=0.5)
    result = mipp.prune(model, [images], budget, MIPP(**fields), compensate=refit, exclude=exclude, progress=False)
    same = predictions(result.model, held_out) == dense
    return {"agreement": round(100 * float(same.double().mean()), 2)}


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(part).argmax(1) for part in images.split(500)])


if __name__ == "__main__":
    main()
