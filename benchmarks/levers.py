"""Levers on the widths that MIPP chooses, alone and together, judged without labels on training images held out.

    MIPP_DATA_DIR=... python -m benchmarks.levers --weights FOLDER [--network NAME] [--choice NAME]

LeNet-5 on MNIST (trained for five epochs unless its weights are in the folder), ResNet-20 and VGG-11 on CIFAR-10, each
with three draws of calibration images (the ResNet-20 with one). No test image is read. "nats alike" is `worth="nats"`,
with which the choices are made that name no other worth; "default" is `worth="auto"`, and "outputs" `worth="outputs"`:
the losses of a group are scaled by what losing half of it does to the outputs. "as shipped" takes every default, with
and without trials. "again" keeps the widths and chooses the nodes of each group again, from the inputs on, by what they
tell the layers behind them in the refitted network in which the group is still whole.
"""

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from torch import Tensor, nn

import mipp
from benchmarks.allocation import HELD_OUT, agreement, drawn, logits
from benchmarks.cifar import EXCLUDED, SAMPLES
from benchmarks.cifar_networks import dense
from benchmarks.record import Record, Row
from benchmarks.workloads import trained_lenet5
from mipp import zoo
from mipp.data.calibration import read
from mipp.methods import MIPP, Method
from mipp.plan import elimination
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.least_squares import refit
from mipp.statistics import shrinkage

FEW = (32, 128)
SHRUNK = ("nats alike", "nothing shrunk")
NETWORKS: Mapping[str, tuple[dict[str, float], ...]] = {
    **{f"lenet5-{seed}": ({"nodes": 0.3}, {"nodes": 0.1}, {"macs": 0.3}, {"params": 0.2}) for seed in range(3)},
    "resnet20": ({"macs": 1 / 3},),
    "vgg11": ({"nodes": 0.3}, {"nodes": 0.1}, {"params": 0.2}),
}
DRAWS: Mapping[str, int] = {"resnet20": 1}
"""How often calibration images are drawn, where it is not three times."""


@dataclass(frozen=True)
class Choice:
    """A setting: the weight of scarcity, steps, what nats are worth, rows an input to believe, trials, nodes again."""

    scarcity: float = 0.3
    steps: int | None = 4
    worth: Literal["auto", "nats", "outputs"] = "nats"
    rows: int = 3
    trials: int = 0
    again: bool = False


BY_TRIAL = {"as shipped": 0, **{f"as shipped, trials={number}": number for number in (24, 100, 400)}}
"""Run on LeNet-5 only, by number of its nodes, and from one draw."""
CHOICES: Mapping[str, Choice | None] = {
    "default": Choice(worth="auto"),
    "nats alike": Choice(),
    "nothing shrunk": Choice(rows=0),
    "scarcity=1": Choice(1),
    "scarcity=3": Choice(3),
    "steps=8": Choice(steps=8),
    "scarcity=1, steps=8": Choice(1, 8),
    "scarcity=3, steps=8": Choice(3, 8),
    "outputs": Choice(worth="outputs"),
    "outputs, scarcity=1": Choice(1, worth="outputs"),
    "outputs, scarcity=0": Choice(0, worth="outputs"),
    "again": Choice(again=True),
    "trials=8": Choice(trials=8),
    "trials=24": Choice(trials=24),
    "trials=24, again": Choice(trials=24, again=True),
    **{name: Choice(steps=None, worth="auto", trials=number) for name, number in BY_TRIAL.items()},
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
            draws = range(DRAWS.get(network, 3))
            for samples, choice, draw in product((SAMPLES, *FEW), options.choice or CHOICES, draws):
                if samples in FEW and (not network.startswith("lenet5") or choice not in SHRUNK or draw):
                    continue
                if choice in BY_TRIAL and (not network.startswith("lenet5") or "nodes" not in budget or draw):
                    continue
                amounts = {name: round(amount, 4) for name, amount in budget.items()}
                key = {"network": network, **amounts, "samples": samples, "draw": draw, "choice": choice}
                record.measure(key, partial(pruned, network, options.weights, budget, samples, CHOICES[choice], draw))


def pruned(
    network: str, weights: Path, budget: Mapping[str, float], samples: int, choice: Choice | None, draw: int
) -> Row:
    """One run: agreement with the dense network in percent, KL(dense || pruned) in nats, widths."""
    model, data = network_of(network, weights), data_of(network)
    images, held_out = drawn(data, draw, samples)
    batches, exclude = list(images.split(min(128, samples // 2))), EXCLUDED if network == "resnet20" else ()
    chosen: Method = mipp.methods.all()["osscar"]()
    if choice is not None:
        chosen = MIPP(steps=choice.steps, worth=choice.worth, trials=choice.trials)
    with ExitStack() as stack:
        if choice is not None:
            stack.enter_context(patch.object(elimination, "_SCARCITY", choice.scarcity))
            stack.enter_context(patch.object(shrinkage, "_ROWS_PER_INPUT", choice.rows))
        limits = mipp.Budget(**budget)  # type: ignore[arg-type]
        result = mipp.prune(model, batches, limits, chosen, exclude=exclude, progress=False)
    small, plan = result.model, result.plan
    if choice is not None and choice.again:
        plan = chosen_again(model, batches, plan, exclude)
        small = refitted(model, batches, plan, exclude)
    return {**agreement(logits(model, held_out), logits(small, held_out)), "widths": plan.widths}


def chosen_again(model: nn.Module, batches: list[Tensor], plan: PruningPlan, exclude: tuple[str, ...]) -> PruningPlan:
    """The plan with as many nodes of each group, chosen by what they tell in the network that is cut in front of it."""
    for name, width in plan.widths.items():
        whole = plan.with_kept({name: range(plan.groups[name].size)})
        small = refitted(model, batches, whole, exclude)
        budget = mipp.Budget(widths={**whole.widths, name: width})
        found = mipp.prune(small, batches, budget, MIPP(), exclude=exclude, compensate=False, progress=False)
        plan = plan.with_kept({name: found.plan.kept[name]})
    return plan


def refitted(model: nn.Module, batches: list[Tensor], plan: PruningPlan, exclude: tuple[str, ...]) -> nn.Module:
    """The network that a plan leaves, refitted."""
    found, small = mipp.inspect(model, batches[0], exclude), mipp.apply(plan, model)
    task = Task(model, found.graph, found.cost, read(mipp.Calibration(batches), None))
    refit(small, model, plan, task, mipp.Refit())
    return small


@cache
def network_of(name: str, weights: Path) -> nn.Module:
    """A network with the weights in the folder."""
    if not name.startswith("lenet5"):
        return dense(name, weights)
    return trained_lenet5(int(name.split("-")[1]), weights)


@cache
def data_of(network: str) -> zoo.ImageData:
    """The training images of a network."""
    load: Callable[..., zoo.ImageData] = zoo.load
    return load("mnist" if network.startswith("lenet5") else "cifar10", "train")


if __name__ == "__main__":
    main()
