"""Rows that the refit needs per input of a layer, by agreement with the dense network on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.rows --weights FOLDER

ResNet-20 at half of its MACs, 1,024 unlabelled training images in three draws; no label and no test image is read.
"""

import argparse
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.cifar import SAMPLES, pretrained
from benchmarks.defaults import agreement, predictions
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.plan.effort import EFFORTS, Effort

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
        dense = predictions(model, held_out)
        for rows in PER_INPUT:
            record.measure({"draw": draw, "rows": rows}, partial(measure, model, images, held_out, dense, rows))


def measure(model: nn.Module, images: Tensor, held_out: Tensor, dense: Tensor, rows: int) -> Row:
    """Percentage of held-out images on which the pruned network says what the dense one says."""
    with patch.dict(EFFORTS, default=Effort(rows_per_input=rows)):
        return agreement(model, images, held_out, dense)


if __name__ == "__main__":
    main()
