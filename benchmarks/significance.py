"""The level of the test behind a confidence on made-up samples, and kept sets that grow with the confidence.

    MIPP_DATA_DIR=... python -m benchmarks.significance

The level: on made-up samples in which a node adds nothing, by how the target and its noise are. Growing sets: along ten
confidences of the paper's schedule, samples of every layer of untrained LeNets on MNIST, and made-up ones.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

import mipp
from benchmarks.estimators import images, layer_samples
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.estimators import Gaussian, Samples, with_drawn_noise
from mipp.plan.elimination import Order, terc

DRAWS, ROWS, LEVEL = 2000, 60, 0.05
LAYERS, SEEDS, RUNS, CONFIDENCES = ("conv1", "conv2", "fc1", "fc2"), 15, 120, 10


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    record = Record(
        "significance", draws=DRAWS, rows_per_draw=ROWS, level=LEVEL, networks=SEEDS, confidences=CONFIDENCES
    )
    for name, make in CASES.items():
        record.measure({"part": "level", "case": name}, partial(level, make))
    train = zoo.load("mnist", "train")
    orders: tuple[Order, ...] = ("mi", "greedy")
    for order in orders:
        record.measure(
            {"part": "growing", "samples": "untrained LeNets", "order": order}, partial(networks, train, order)
        )
        record.measure({"part": "growing", "samples": "redundant", "order": order}, partial(redundant, order))


def level(make: Callable[[torch.Generator], Samples]) -> Row:
    """Share of the draws in which the last node, which adds nothing, is found to add something."""
    generator = torch.Generator().manual_seed(0)
    samples = (make(generator) for _ in range(DRAWS))
    kept = sum(Gaussian()(s, generator).confidence(len(s.blocks) - 1) >= 1 - LEVEL for s in samples)
    return {"kept": kept / DRAWS}


def networks(train: zoo.ImageData, order: Order) -> Row:
    """All layers of some untrained networks."""
    made = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model, inputs = zoo.LeNet5().eval(), images(train, seed)
        made += [layer_samples(model, inputs, layer) for layer in LAYERS]
    return growing(made, order)


def redundant(order: Order) -> Row:
    """Made-up samples of twelve nodes that share four factors, of which a target reads a mix."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    made = []
    for _ in range(RUNS):
        factors = normal(200, 4)
        x = factors @ normal(4, 12) + 0.3 * normal(200, 12)
        made.append(Samples.of(x, factors @ normal(4, 3) + normal(200, 3)))
    return growing(made, order)


def growing(made: Sequence[Samples], order: Order) -> Row:
    """Of some samples, those of which a higher confidence somewhere keeps more nodes; and the share that is kept."""
    confidences = mipp.confidence_schedule(CONFIDENCES)
    kept = [[len(terc(Gaussian()(s, torch.Generator()), c, order)) / len(s.blocks) for c in confidences] for s in made]
    first, last = (sum(run[place] for run in kept) / len(kept) for place in (0, -1))
    more = sum(any(after > before for before, after in pairwise(run)) for run in kept)
    return {"runs": len(made), "keep more": more, "kept at first": round(first, 3), "kept at last": round(last, 3)}


def _made_up(generator: torch.Generator, rest: float, noise: float, width: int, dead: int) -> Samples:
    """Two nodes of `width` features, and three targets that read the first; `dead` features of the second are zero."""
    x = torch.randn(ROWS, 2 * width, generator=generator, dtype=torch.float64)
    x[:, width:] += x[:, :width]
    x[:, 2 * width - dead :] = 0
    weight = torch.randn(width, 3, generator=generator, dtype=torch.float64)
    y = x[:, :width] @ weight + rest * _normal(generator)
    blocks = torch.arange(2 * width).reshape(2, width)
    return Samples(x, y, blocks, torch.arange(ROWS), torch.full((3,), noise))


def _normal(generator: torch.Generator) -> Tensor:
    return torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)


def _drawn(generator: torch.Generator, rest: float) -> Samples:
    return with_drawn_noise(_made_up(generator, rest, 1.0, 1, 0), generator)


CASES: Mapping[str, Callable[[torch.Generator], Samples]] = {
    "no noise": partial(_made_up, rest=1.0, noise=0.0, width=1, dead=0),
    "noise drawn with the samples": partial(_drawn, rest=1.0),
    "noise known by its variance": partial(_made_up, rest=1.0, noise=1.0, width=1, dead=0),
    "target nearly determined, no noise": partial(_made_up, rest=1e-4, noise=0.0, width=1, dead=0),
    "target nearly determined, noise drawn": partial(_drawn, rest=1e-4),
    "nine features per node, four of them dead": partial(_made_up, rest=1.0, noise=0.0, width=9, dead=4),
}


if __name__ == "__main__":
    main()
