"""Distillation of the whole network against region after region, at equal seconds of the processor.

    MIPP_DATA_DIR=... python -m benchmarks.recovery --weights FOLDER [--network NAME] [--draws 3]

Agreement and KL are those of the dense and the pruned network on data that nothing was calibrated on: 4,096 training
images, or pieces of training text, token by token. No label and no test data are read. "Cosine" has 1 - cosine along
the channels of every position or token as the loss of features in place of their relative squared error. LeNet-5, on
MNIST, is trained anew for each draw, recovered for a third of the time, and has a result file of its own.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mipp
from benchmarks.allocation import HELD_OUT, agreement, drawn, logits
from benchmarks.cifar import EXCLUDED, WEIGHTS
from benchmarks.cifar_networks import dense
from benchmarks.language import Text
from benchmarks.passes import characters
from benchmarks.record import Record, Row
from benchmarks.workloads import trained_lenet5
from mipp import zoo
from mipp.refit.losses import Feature, Values
from mipp.statistics.unfolding import align

SECONDS, SAMPLES, PIECES = 60.0, 1024, 64
LENET_SECONDS = 20.0
EPOCHS = 100_000  # more than there is time for
WAYS: Mapping[str, tuple[str, bool] | None] = {
    "refit only": None,
    "network": ("network", False),
    "blocks": ("blocks", False),
    "network, cosine": ("network", True),
    "blocks, cosine": ("blocks", True),
}
"""What is trained together, and whether by the cosine."""
BUDGETS: Mapping[str, mipp.Budget] = {
    "resnet20": mipp.Budget(macs=0.4),
    "resnet56": mipp.Budget(macs=1 / 2.11),
    "vgg11": mipp.Budget(params=0.2),
    "gpt": mipp.Budget(macs=0.6),
}
LENET: Mapping[str, mipp.Budget] = {
    "lenet5, nodes": mipp.Budget(nodes=0.3),
    "lenet5, few nodes": mipp.Budget(nodes=0.1),
    "lenet5, params": mipp.Budget(params=0.05),
}


@dataclass(frozen=True)
class Case:
    """A network, what it is calibrated on, and what it is judged by."""

    model: nn.Module
    batches: Sequence[Tensor]
    held_out: Tensor
    exclude: tuple[str, ...] = ()

    @torch.no_grad()
    def said(self, model: nn.Module) -> Tensor:
        """Logits on what it is judged by, shape [images or tokens, classes]."""
        return logits(model, self.held_out).flatten(0, -2)


def main() -> None:
    """Measures what is missing, and writes benchmarks/results/recovery.json or recovery_lenet.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", action="append", choices=[*BUDGETS, *LENET], help="may be repeated; default: all")
    parser.add_argument("--way", action="append", choices=WAYS, help="may be repeated; default: all")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    held_out = {"images": HELD_OUT, "pieces": PIECES}
    for name, seconds, networks in (("recovery", SECONDS, BUDGETS), ("recovery_lenet", LENET_SECONDS, LENET)):
        chosen = [network for network in networks if network in (options.network or networks)]
        record = Record(name, seconds=seconds, held_out=held_out) if chosen else None
        for network, draw, way in product(chosen, range(options.draws), options.way or WAYS):
            assert record is not None
            key = {"network": network, "draw": draw, "way": way}
            record.measure(key, partial(measure, network, options.weights, draw, way))


def measure(network: str, weights: Path, draw: int, way: str) -> Row:
    """Agreement and KL(dense || pruned) after one call, and seconds of the processor that recovery took."""
    case = text(weights, draw) if network == "gpt" else images(network, weights, draw)
    start = time.process_time()
    with ExitStack() as patches:
        chosen = WAYS[way]
        if chosen is not None:
            patches.enter_context(patch("time.monotonic", time.process_time))
            if chosen[1]:
                patches.enter_context(patch("mipp.refit.by_regions.relative_error", apart))
                patches.enter_context(patch("mipp.refit.distillation.feature_loss", features_apart))
        seconds = LENET_SECONDS if network in LENET else SECONDS
        recover: Any = chosen and mipp.Distillation(seconds, EPOCHS, by=chosen[0])  # type: ignore[arg-type]
        result = mipp.prune(
            case.model, case.batches, {**BUDGETS, **LENET}[network], exclude=case.exclude, recover=recover, seed=draw,
            progress=False,
        )  # fmt: skip
    seconds = round(time.process_time() - start, 1)
    return {**agreement(case.said(case.model), case.said(result.model)), "seconds of the call": seconds}


def images(network: str, weights: Path, draw: int) -> Case:
    """A network for CIFAR-10, or LeNet-5 for MNIST."""
    known, held_out = drawn(zoo.load("mnist" if network in LENET else "cifar10", "train"), draw, SAMPLES)
    if network in LENET:
        return Case(trained_lenet5(draw, weights), known.split(128), held_out)
    return Case(dense(network, weights), known.split(128), held_out, EXCLUDED if network in WEIGHTS else ())


def text(weights: Path, draw: int) -> Case:
    """The GPT of characters."""
    source = Text(Path(os.environ["MIPP_DATA_DIR"]) / "text" / "tinyshakespeare.txt")
    known, held_out = (source.batch(torch.Generator().manual_seed(seed + draw), size)[:, :-1]
                       for seed, size in ((100, 128), (10_000, PIECES)))  # fmt: skip
    return Case(characters("gpt", weights).model, known.split(32), held_out)


def apart(output: Tensor, target: Tensor, norm: object = None) -> Tensor:
    """One minus the cosine along the channels, the mean over positions and samples."""
    return 1 - F.cosine_similarity(output.float(), target.float(), dim=1 if output.ndim == 4 else -1).mean()


def features_apart(values: Values, targets: Values, features: Sequence[Feature]) -> Tensor:
    """The same, the mean over features that are there."""
    there = [(v, t, f) for v, t, f in zip(values, targets, features, strict=True) if v.numel() and t.numel()]
    return torch.stack([apart(value, align(target, value.shape, f.kept)) for value, target, f in there]).mean()


if __name__ == "__main__":
    main()
