"""Levers on the widths that MIPP chooses, alone and together, judged without labels on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.levers --weights FOLDER [--network NAME] [--choice NAME]

LeNet-5 on MNIST (trained for five epochs unless its weights are in the folder) and ResNet-20 on CIFAR-10. No test image
is read. "outputs" scales the losses of a group by what they do to the outputs: with a half and a quarter of its nodes
masked, KL(dense || masked) on 256 images over the nats that this takes.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mipp
from benchmarks.allocation import logits
from benchmarks.cifar import EXCLUDED, SAMPLES
from benchmarks.cifar_networks import dense
from benchmarks.record import Record, Row
from benchmarks.workloads import EPOCHS, lenet5
from mipp import zoo
from mipp.methods import MIPP, Method
from mipp.methods.mipp import mipp as method
from mipp.plan import elimination
from mipp.plan.elimination import Elimination
from mipp.plan.task import Task
from mipp.statistics import shrinkage

HELD_OUT = 4096
FEW = (32, 128)
SHRUNK = ("default", "nothing shrunk")
NETWORKS: Mapping[str, tuple[dict[str, float], ...]] = {
    **{f"lenet5-{seed}": ({"nodes": 0.3}, {"nodes": 0.1}) for seed in range(3)},
    "resnet20": ({"macs": 1 / 3},),
}


@dataclass(frozen=True)
class Choice:
    """A setting: the weight of scarcity, steps, whether losses are scaled by their effect, rows an input to believe."""

    scarcity: float = 0.3
    steps: int = 4
    outputs: bool = False
    rows: int = 3


CHOICES: Mapping[str, Choice | None] = {
    "default": Choice(),
    "nothing shrunk": Choice(rows=0),
    "scarcity=1": Choice(1),
    "scarcity=3": Choice(3),
    "steps=8": Choice(steps=8),
    "scarcity=1, steps=8": Choice(1, 8),
    "scarcity=3, steps=8": Choice(3, 8),
    "outputs": Choice(outputs=True),
    "outputs, scarcity=1": Choice(1, outputs=True),
    "outputs, scarcity=0": Choice(0, outputs=True),
    "osscar": None,
}


def main() -> None:
    """Measures what is missing, and writes benchmarks/results/levers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="all of them by default")
    parser.add_argument("--choice", action="append", choices=CHOICES, help="all of them by default")
    options = parser.parse_args()
    record = Record("levers", held_out=HELD_OUT, excluded=EXCLUDED[0])
    for network in options.network or NETWORKS:
        for budget in NETWORKS[network]:
            for samples, choice in product((SAMPLES, *FEW), options.choice or CHOICES):
                if samples in FEW and (network == "resnet20" or choice not in SHRUNK):
                    continue
                amounts = {name: round(amount, 4) for name, amount in budget.items()}
                key = {"network": network, **amounts, "samples": samples, "choice": choice}
                record.measure(key, partial(pruned, network, options.weights, budget, samples, CHOICES[choice]))


def pruned(network: str, weights: Path, budget: Mapping[str, float], samples: int, choice: Choice | None) -> Row:
    """One run: agreement with the dense network in percent, KL(dense || pruned) in nats, widths."""
    model, data = _network(network, weights), _data(network)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    images, held_out = data.normalise(order[:samples]), data.normalise(order[-HELD_OUT:])
    chosen: Method = mipp.methods.all()["osscar"]() if choice is None else MIPP(steps=choice.steps)
    with ExitStack() as stack:
        if choice is not None:
            stack.enter_context(patch.object(elimination, "_SCARCITY", choice.scarcity))
            stack.enter_context(patch.object(shrinkage, "_ROWS_PER_INPUT", choice.rows))
        if choice is not None and choice.outputs:
            stack.enter_context(_scaled_by_outputs(images[:256]))
        result = mipp.prune(
            model, list(images.split(min(128, samples // 2))), mipp.Budget(**budget), chosen,  # type: ignore[arg-type]
            exclude=EXCLUDED if network == "resnet20" else (), progress=False,
        )  # fmt: skip
    found, said = logits(result.model, held_out), logits(model, held_out)
    return {
        "agreement": round(100 * float((found.argmax(1) == said.argmax(1)).double().mean()), 2),
        "kl": round(_divergence(said, found), 4),
        "widths": result.plan.widths,
    }


def _scaled_by_outputs(images: Tensor) -> Any:
    """Scales the curves of every group by their effect on the outputs, each time that widths are chosen."""
    towards_kept, allocate = MIPP._towards_kept, method._allocate
    factors: dict[str, float] = {}

    def scaled(curves: Mapping[str, Elimination], *given: Any) -> dict[str, int]:
        changed = {
            name: replace(curve, loss=tuple(factors.get(name, 1.0) * loss for loss in curve.loss))
            for name, curve in curves.items()
        }
        return allocate(changed, *given)

    def measured(self: MIPP, task: Task, source: Any, budget: Any, whole: Mapping[str, Elimination]) -> Any:
        factors.update(_factors(task, whole, images))
        return towards_kept(self, task, source, budget, whole)

    stack = ExitStack()
    stack.enter_context(patch.object(method, "_allocate", scaled))
    stack.enter_context(patch.object(MIPP, "_towards_kept", measured))
    return stack


def _factors(task: Task, curves: Mapping[str, Elimination], images: Tensor) -> dict[str, float]:
    """KL of the outputs over nats, by group: the geometric mean at a half and a quarter of its nodes gone."""
    said = logits(task.model, images)
    found = {}
    for name, curve in curves.items():
        ratios = []
        for gone in {max(1, len(curve.order) // 2), max(1, len(curve.order) // 4)}:
            kept = {n: range(group.size) for n, group in task.graph.groups.items()}
            kept[name] = curve.kept(len(curve.order) - gone)  # type: ignore[assignment]
            masked = mipp.mask(task.plan(kept, "masked", mipp.Budget()), task.model)
            ratios.append(math.log(max(_divergence(said, logits(masked, images)), 1e-9) / max(curve.loss[gone], 1e-9)))
        found[name] = math.exp(sum(ratios) / len(ratios))
    return found


def _divergence(said: Tensor, found: Tensor) -> float:
    logs = found.log_softmax(1), said.log_softmax(1)
    return float(F.kl_div(*logs, log_target=True, reduction="batchmean"))


@cache
def _network(name: str, weights: Path) -> nn.Module:
    if name == "resnet20":
        return dense(name, weights)
    seed = int(name.split("-")[1])
    model, path = lenet5(seed), weights / f"{name}.safetensors"
    if not path.exists():
        zoo.fit(model, _data(name), epochs=EPOCHS, batch_size=128, seed=seed)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model.eval()


@cache
def _data(network: str) -> zoo.ImageData:
    load: Callable[..., zoo.ImageData] = zoo.load
    return load("cifar10" if network == "resnet20" else "mnist", "train")


if __name__ == "__main__":
    main()
