"""Chooses a learning rate on training images that are held out: `python -m experiments.mipp_2024.rates vgg11`.

Each rate trains the network on the first part of the training images, and the next part, on which no gradient was
taken, says how good it is. No test image is read.
"""

import json
import time
from dataclasses import replace
from typing import Annotated, Any

import typer
from benchmarks.record import machine, write
from experiments.mipp_2024 import record
from experiments.mipp_2024.data import load
from experiments.mipp_2024.networks import build
from experiments.mipp_2024.recipes import once
from experiments.mipp_2024.setting import Setting

from mipp.zoo import accuracy

NETWORKS = {"vgg11": "cifar10", "resnet18": "cifar10", "vgg19": "cifar100-10000", "resnet50": "cifar100-10000"}
RATES = (0.05, 0.1, 0.2)
HELD_OUT = 2000
RESULT = record.RESULTS / "rates.json"


def main(
    network: Annotated[str, typer.Argument(help=f"{', '.join(NETWORKS)}.")],
    images: Annotated[int, typer.Option(min=1, help="Training images.")] = 16_384,
    epochs: Annotated[float, typer.Option(min=0.1, help="Passes over them.")] = 3,
) -> None:
    """Train with each rate on some of the training images, and measure accuracy on others of them."""
    data = load(NETWORKS[network], "train")
    train, held = data.subset(slice(images)), data.subset(slice(images, images + HELD_OUT))
    found = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    for rate in RATES:
        recipe = replace(once(network, Setting(progress=False)), epochs=epochs, learning_rate=rate)
        key = {"network": network, "images": len(train), "held out": len(held), "recipe": recipe.options()}
        if any(all(row[k] == json.loads(json.dumps(v)) for k, v in key.items()) for row in found):
            continue
        model, start = build(network, data), time.perf_counter()
        recipe(model, train, 0)
        row: dict[str, Any] = {**key, "accuracy": accuracy(model, held), "seconds": time.perf_counter() - start}
        typer.echo(f"{network}, rate {rate:g}: {row['accuracy']:.2f} % of {len(held):,} held-out training images")
        found.append({**row, "machine": machine(), "command": f"python -m experiments.mipp_2024.rates {network}"})
        write(RESULT, {"program": "experiments.mipp_2024.rates"}, found)


if __name__ == "__main__":
    typer.run(main)
