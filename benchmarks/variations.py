"""Variations of images that the refit reads where a convolution has few rows an input, by agreement held out.

    MIPP_DATA_DIR=... python -m benchmarks.variations --weights FOLDER [--network NAME]

Agreement and KL are those of dense and pruned network on 4,096 other training images, in three draws: a VGG-11 on 1,024
images, and a ResNet-20 on 32. No label and no test image is read. Seconds are those of the processor.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import mipp
from benchmarks.allocation import HELD_OUT, agreement, drawn, logits
from benchmarks.cifar import EXCLUDED, WEIGHTS
from benchmarks.cifar_networks import dense
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.plan.effort import EFFORTS, Effort

DRAWS, VARIATIONS = 3, (0, 1, 3)


@dataclass(frozen=True)
class Case:
    """A budget, and the number of images to reach it with."""

    budget: mipp.Budget
    images: int


CASES: Mapping[str, Case] = {
    "vgg11": Case(mipp.Budget(params=0.2), 1024),
    "resnet20": Case(mipp.Budget(macs=0.5), 32),
}


def main() -> None:
    """Measures what is missing, and writes benchmarks/results/variations.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", action="append", choices=CASES, help="both by default")
    options = parser.parse_args()
    record = Record("variations", held_out=HELD_OUT)
    for network in options.network or CASES:
        for draw, variations in product(range(DRAWS), VARIATIONS):
            key = {"network": network, "images": CASES[network].images, "variations": variations, "draw": draw}
            record.measure(key, partial(measure, network, options.weights, draw, variations))


def measure(network: str, weights: Path, draw: int, variations: int) -> Row:
    """Agreement, KL(dense || pruned) and seconds of one prune."""
    case, model = CASES[network], dense(network, weights)
    images, held_out = drawn(zoo.load("cifar10", "train"), draw, case.images)
    exclude = EXCLUDED if network in WEIGHTS else ()
    with patch.dict(EFFORTS, default=Effort(variations=variations)):
        start = time.process_time()
        result = mipp.prune(model, images.split(128), case.budget, exclude=exclude, seed=draw, progress=False)
        seconds = time.process_time() - start
    return {**agreement(logits(model, held_out), logits(result.model, held_out)), "seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
