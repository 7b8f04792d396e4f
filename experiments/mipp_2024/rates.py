"""Chooses a learning rate on training images that are held out: `python -m experiments.mipp_2024.rates vgg11`.

Each rate trains the network on the first part of the training images, and the next part, on which no gradient was
taken, says how good it is. No test image is read. With `--weights FOLDER` it is the rate after pruning: the network
there is cut to a tenth of its nodes by MIPP and by L1, and trained for an epoch as it is cut.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from benchmarks import cifar_networks
from benchmarks.cifar import SAMPLES
from benchmarks.record import machine, write
from experiments.mipp_2024 import record
from experiments.mipp_2024.data import load
from experiments.mipp_2024.networks import build
from experiments.mipp_2024.recipes import again, once
from experiments.mipp_2024.setting import Setting
from experiments.mipp_2024.training import Recipe
from torch import nn

import mipp
from mipp.zoo import ImageData, accuracy

NETWORKS = {"vgg11": "cifar10", "resnet18": "cifar10", "vgg19": "cifar100-10000", "resnet50": "cifar100-10000"}
RATES, AFTER = (0.01, 0.02, 0.05, 0.1, 0.2), (0.01, 0.02, 0.05, 0.1)
CUT_BY = ("mipp", "l1")
HELD_OUT = 2000
RESULT = record.RESULTS / "rates.json"
Training = tuple[dict[str, str], Recipe, Callable[[], nn.Module]]
"""Words for its row, the recipe, and what makes the network."""
_FOUND = ("accuracy", "seconds", "machine", "command")


def main(
    network: Annotated[str, typer.Argument(help=f"{', '.join(NETWORKS)}.")],
    images: Annotated[int, typer.Option(min=1, help="Training images.")] = 16_384,
    epochs: Annotated[float, typer.Option(min=0.1, help="Passes over them.")] = 3,
    weights: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Train what pruning leaves of the network in here."),
    ] = None,
) -> None:
    """Train with each rate on some of the training images, and measure accuracy on others of them."""
    data = load(NETWORKS[network], "train")
    train, held = data.subset(slice(images)), data.subset(slice(images, images + HELD_OUT))
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    found = _from_scratch(network, epochs, data) if weights is None else _after_pruning(network, epochs, weights, train)
    command = f"python -m experiments.mipp_2024.rates {network} --images {images} --epochs {epochs:g}"
    for words, recipe, make in found:
        key = {"network": network, **words, "images": len(train), "held out": len(held), "recipe": recipe.options()}
        key = json.loads(json.dumps(key))
        if any({k: v for k, v in row.items() if k not in _FOUND} == key for row in rows):
            continue
        model, start = make(), time.perf_counter()
        recipe(model, train, 0)
        row: dict[str, Any] = {**key, "accuracy": accuracy(model, held), "seconds": time.perf_counter() - start}
        told = ", ".join([network, *map(str, words.values()), f"rate {recipe.learning_rate:g}"])
        typer.echo(f"{told}: {row['accuracy']:.2f} % of {len(held):,} held-out training images")
        whole = command + (" --weights FOLDER" if weights else "")
        rows.append({**row, "machine": machine(), "command": whole})
        write(RESULT, {"program": "experiments.mipp_2024.rates"}, rows)


def _from_scratch(network: str, epochs: float, data: ImageData) -> Iterator[Training]:
    for rate in RATES:
        recipe = replace(once(network, Setting(progress=False)), epochs=epochs, learning_rate=rate)
        yield {}, recipe, partial(build, network, data)


def _after_pruning(network: str, epochs: float, weights: Path, train: ImageData) -> Iterator[Training]:
    """Trainings of what is left of a network, which is calibrated on images that it is trained on."""
    dense = cifar_networks.dense(network, weights)
    batches = [images for images, _ in train.batches(128, limit=SAMPLES)]
    for name in CUT_BY:
        budget, method = mipp.Budget(nodes=0.1, min_keep=0), mipp.methods.all()[name]()
        plan = mipp.prune(dense, batches, budget, method, compensate=False, progress=False).plan
        for rate in AFTER:
            recipe = replace(again(network, Setting(progress=False)), epochs=epochs, learning_rate=rate)
            yield {"cut by": name}, recipe, partial(mipp.apply, plan, dense)


if __name__ == "__main__":
    typer.run(main)
