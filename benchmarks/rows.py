"""Rows per input of a layer that the refit and the choice of nodes need, by agreement on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.rows --weights FOLDER

Agreement is that with the dense network: a ResNet-20 at half of its MACs, 1,024 unlabelled training images in three
draws. No label and no test image is read.
"""

import argparse
from functools import partial
from pathlib import Path
from unittest.mock import patch

from torch import Tensor, nn

from benchmarks.allocation import drawn
from benchmarks.cifar import SAMPLES, pretrained
from benchmarks.defaults import agreement, predictions
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.plan.effort import EFFORTS, Effort

HELD_OUT, DRAWS = 8192, 3
PER_INPUT = {"refit": (32, 64, 128, 1024), "choice": (8, 16, 64, 1024)}
"""By what they are for; the last one is more than there are: all rows, or 64 positions of each image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    options = parser.parse_args()
    train, model = zoo.load("cifar10", "train"), pretrained("resnet20", options.weights)
    record = Record("rows", network="resnet20", macs=0.5, samples=SAMPLES, held_out=HELD_OUT)
    for draw in range(DRAWS):
        images, held_out = drawn(train, draw, SAMPLES, HELD_OUT)
        dense = predictions(model, held_out)
        for purpose, rows in ((purpose, rows) for purpose, each in PER_INPUT.items() for rows in each):
            key = {"purpose": purpose, "rows": rows, "draw": draw}
            effort = Effort(rows_per_input=rows) if purpose == "refit" else Effort(chosen_by_per_input=rows)
            record.measure(key, partial(measure, model, images, held_out, dense, effort))


def measure(model: nn.Module, images: Tensor, held_out: Tensor, dense: Tensor, effort: Effort) -> Row:
    """Percentage of held-out images on which the pruned network says what the dense one says."""
    with patch.dict(EFFORTS, default=effort):
        return agreement(model, images, held_out, dense)


if __name__ == "__main__":
    main()
