"""Rows per input of a layer that the refit and the choice of nodes need, and samples that the choice looks at.

    MIPP_DATA_DIR=... python -m benchmarks.rows --weights FOLDER [--part rows] [--part samples] [--part positions]

By agreement with the dense network on training images held out, with 1,024 unlabelled training images in three draws or
six: a ResNet-20 at half of its MACs; for samples also a ResNet-56 at ÷ 2.11; for positions, which are the same in all
images or others in each, also the ResNet-20 at a third and a LeNet-5 at a tenth of its nodes. No label and no test
image is read.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

from torch import Tensor, nn

import mipp
from benchmarks.allocation import agreement, drawn, logits
from benchmarks.cifar import EXCLUDED, SAMPLES, pretrained
from benchmarks.record import Record, Row
from benchmarks.workloads import trained_lenet5
from mipp import zoo
from mipp.plan.effort import EFFORTS, Effort
from mipp.statistics import unfolding

HELD_OUT, DRAWS = 8192, 3
PER_INPUT = {"refit": (32, 64, 128, 1024), "choice": (8, 16, 64, 1024)}
"""By what they are for; the last one is more than there are: all rows, or 64 positions of each image."""
LOOKED_AT = (128, 256, 512, 1024)
TAKEN = ("the same", "in turn")
IN_REFIT = (64, 128)
PLACED: Sequence[tuple[str, dict[str, float]]] = (
    ("lenet5", {"nodes": 0.1}), ("resnet20", {"macs": 0.5}), ("resnet20", {"macs": 0.3333}),
)  # fmt: skip
"""Networks with their budgets."""
NETWORKS = {"resnet20": 0.5, "resnet56": 1 / 2.11}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="all by default")
    options = parser.parse_args()
    for part in options.part or PARTS:
        PARTS[part](options.weights)


def measure_rows(weights: Path) -> None:
    """By rows for each input, in the refit and in the choice of nodes."""
    train, model = zoo.load("cifar10", "train"), pretrained("resnet20", weights)
    record = Record("rows", network="resnet20", macs=0.5, samples=SAMPLES, held_out=HELD_OUT)
    for draw in range(DRAWS):
        images, held_out = drawn(train, draw, SAMPLES, HELD_OUT)
        said = logits(model, held_out)
        for purpose, rows in ((purpose, rows) for purpose, each in PER_INPUT.items() for rows in each):
            key = {"purpose": purpose, "rows": rows, "draw": draw}
            effort = Effort(rows_per_input=rows) if purpose == "refit" else Effort(chosen_by_per_input=rows)
            record.measure(key, partial(measure, model, images, held_out, said, mipp.Budget(macs=0.5), effort))


def measure_samples(weights: Path) -> None:
    """By samples that the choice of nodes looks at."""
    train, record = zoo.load("cifar10", "train"), Record("looked_at", samples=SAMPLES, held_out=HELD_OUT)
    for network, macs in NETWORKS.items():
        model = pretrained(network, weights)
        for draw in range(DRAWS):
            images, held_out = drawn(train, draw, SAMPLES, HELD_OUT)
            said = logits(model, held_out)
            for count in LOOKED_AT:
                key = {"network": network, "macs": round(macs, 3), "looked at": count, "draw": draw}
                budget, effort = mipp.Budget(macs=macs), Effort(seen_by=count)
                record.measure(key, partial(measure, model, images, held_out, said, budget, effort))


def measure_positions(weights: Path) -> None:
    """By the positions that are read of each image: the same in all, or others in each; in the refit and the choice."""
    record = Record("positions", samples=SAMPLES, held_out=HELD_OUT)
    for (network, kept), rows, taken in product(PLACED, IN_REFIT, TAKEN):
        is_lenet = network == "lenet5"
        train = zoo.load("mnist" if is_lenet else "cifar10", "train")
        model = trained_lenet5(0, weights) if is_lenet else pretrained(network, weights)
        for draw in range(2 * DRAWS):
            images, held_out = drawn(train, draw, SAMPLES, HELD_OUT)
            key = {"network": network, **kept, "rows": rows, "positions": taken, "draw": draw}
            record.measure(key, partial(_placed, model, images, held_out, mipp.Budget(**kept), rows, taken))  # type: ignore[arg-type]


def _placed(model: nn.Module, images: Tensor, held_out: Tensor, budget: mipp.Budget, rows: int, taken: str) -> Row:
    own = unfolding._positions
    every = {"the same": lambda total, limit, _, samples: own(total, limit, None, samples), "in turn": own}
    with patch.object(unfolding, "_positions", every[taken]):
        return measure(model, images, held_out, logits(model, held_out), budget, Effort(rows_per_input=rows))


PARTS = {"rows": measure_rows, "samples": measure_samples, "positions": measure_positions}


def measure(
    model: nn.Module, images: Tensor, held_out: Tensor, said: Tensor, budget: mipp.Budget, effort: Effort
) -> Row:
    """Agreement with what the dense network said of the held-out images, and KL, at this effort."""
    exclude = EXCLUDED if budget.macs else ()
    with patch.dict(EFFORTS, default=effort):
        result = mipp.prune(model, [images], budget, exclude=exclude, progress=False)
    return agreement(said, logits(result.model, held_out))


if __name__ == "__main__":
    main()
