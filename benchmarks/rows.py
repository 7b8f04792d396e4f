"""Rows that the refit needs per input of a layer, by agreement with the dense network on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.rows --weights FOLDER

ResNet-20 at half of its MACs, 1,024 unlabelled training images in three draws; no label and no test image is read.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, pretrained
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.refit import least_squares

HELD_OUT, DRAWS = 8192, 3
PER_INPUT = (64, 128, 1024)
"""The last one is more than there are: all rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    train, model = zoo.load("cifar10", "train"), pretrained("resnet20", options.weights)
    record = Record("rows", network="resnet20", macs=0.5, samples=SAMPLES, held_out=HELD_OUT)
    for draw in range(DRAWS):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
        images, held_out = (train.normalise(order[part]) for part in (slice(SAMPLES), slice(-HELD_OUT, None)))
        for rows in PER_INPUT:
            record.measure({"draw": draw, "rows": rows}, partial(measure, model, images, held_out, rows))


def measure(model: nn.Module, images: Tensor, held_out: Tensor, rows: int) -> Row:
    """Percentage of held-out images on which the pruned network says what the dense one says."""
    default = least_squares._ROWS_PER_INPUT
    least_squares._ROWS_PER_INPUT = rows
    try:
        result = mipp.prune(model, [images], mipp.Budget(macs=0.5), exclude=EXCLUDED, progress=False)
    finally:
        least_squares._ROWS_PER_INPUT = default
    same = predictions(result.model, held_out) == predictions(model, held_out)
    return {"agreement": round(100 * float(same.double().mean()), 2)}


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """The class of every image."""
    with torch.inference_mode():
        return torch.cat([model(part).argmax(1) for part in images.split(500)])


if __name__ == "__main__":
    main()
