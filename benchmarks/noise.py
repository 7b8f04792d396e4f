"""The noise on the targets of MIPP and the widths that come of it, judged without labels on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.noise --weights FOLDER [--network NAME] [--draws N]

LeNet-5 is trained for five epochs unless its weights are in the folder; other networks whose weights are not there are
left out. No test image is read.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path

import mipp
from benchmarks.allocation import HELD_OUT, agreement, drawn, logits
from benchmarks.cifar import EXCLUDED, SAMPLES, WEIGHTS
from benchmarks.cifar_networks import path_of
from benchmarks.levers import data_of, network_of
from benchmarks.record import Record, Row
from mipp.methods import MIPP

NOISES = (1.0, 3.0, 10.0, 100.0)
LENET5: tuple[dict[str, float], ...] = (
    {"nodes": 0.3}, {"nodes": 0.2}, {"nodes": 0.1}, {"params": 0.2}, {"params": 0.05}, {"macs": 0.3},
)  # fmt: skip
BUDGETS: Mapping[str, tuple[dict[str, float], ...]] = {
    **{f"lenet5-{seed}": LENET5 for seed in range(3)},
    **dict.fromkeys(("vgg11", "vgg11 of a quarter"), ({"params": 0.2}, {"nodes": 0.3}, {"nodes": 0.1})),
    "resnet20": ({"macs": 0.5}, {"macs": 1 / 3}),
}


def main() -> None:
    """Measures what is missing, and writes benchmarks/results/noise.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", action="append", choices=BUDGETS, help="all of them by default")
    parser.add_argument("--noise", action="append", type=float, help="all of them by default")
    parser.add_argument("--draws", type=int, default=3, help="calibration draws")
    options = parser.parse_args()
    record = Record("noise", samples=SAMPLES, held_out=HELD_OUT, excluded=EXCLUDED[0])
    for network in options.network or BUDGETS:
        if not network.startswith("lenet5") and not path_of(options.weights, network).exists():
            continue
        for budget, draw, noise in product(BUDGETS[network], range(options.draws), options.noise or NOISES):
            amounts = {name: round(amount, 4) for name, amount in budget.items()}
            key = {"network": network, **amounts, "noise": noise, "draw": draw}
            record.measure(key, partial(pruned, network, options.weights, budget, noise, draw))


def pruned(network: str, weights: Path, budget: Mapping[str, float], noise: float, draw: int) -> Row:
    """One run: agreement with the dense network in percent, KL(dense || pruned) in nats, widths."""
    model, (images, held_out) = network_of(network, weights), drawn(data_of(network), draw, SAMPLES)
    limits = mipp.Budget(**budget, min_keep=0 if "nodes" in budget else 1)  # type: ignore[arg-type]
    exclude = EXCLUDED if network in WEIGHTS else ()
    result = mipp.prune(model, list(images.split(128)), limits, MIPP(noise=noise), exclude=exclude, progress=False)
    return {**agreement(logits(model, held_out), logits(result.model, held_out)), "widths": result.plan.widths}


if __name__ == "__main__":
    main()
