"""Accuracy straight after pruning: CIFAR-10 ResNets, 1,024 unlabelled training images, nothing retrained.

    MIPP_DATA_DIR=... python -m benchmarks.resnet_cifar --weights FOLDER

The test set is read only here; defaults were chosen by `benchmarks.defaults`, which does not read it.
"""

import argparse
import copy
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mipp
from benchmarks.record import Record, Row
from mipp import zoo

WEIGHTS = {"resnet20": "resnet20-12fca82f.safetensors", "resnet56": "resnet56-4bfd9763.safetensors"}
BUDGETS = {"resnet56": (1 / 2.11, 1 / 2.57), "resnet20": (0.5,)}
SAMPLES = 1024
EXCLUDED = ("conv1",)  # the first stage's residual stream; MIPP would keep it whole, the peers would not


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pretrained .safetensors files")
    parser.add_argument("--draws", type=int, default=3, help="calibration draws for MIPP")
    parser.add_argument("--peer-draws", type=int, default=3, help="calibration draws for the peers")
    options = parser.parse_args()
    record = Record("resnet_cifar", samples=SAMPLES, excluded=EXCLUDED[0])
    train, test = zoo.load("cifar10", "train"), zoo.load("cifar10", "test")
    for name, budgets in BUDGETS.items():
        model = pretrained(name, options.weights)
        record.measure({"network": name, "method": "dense"}, partial(dense, model, test))
        for macs in budgets:
            compare(record, name, model, macs, train, test, (options.draws, options.peer_draws))


def compare(
    record: Record,
    name: str,
    model: nn.Module,
    macs: float,
    train: zoo.ImageData,
    test: zoo.ImageData,
    draws: tuple[int, int],
) -> None:
    """All methods at one budget: MIPP, the peers with widths of their own, and the peers with MIPP's widths."""
    widths: dict[str, int] = {}
    for draw in range(draws[0]):
        key = {"network": name, "macs": round(macs, 4), "draw": draw, "budget": "macs", "method": "mipp"}
        row = record.measure(key, partial(pruned, model, calibration(train, draw), "mipp", macs, draw, test))
        widths = widths or row["widths"]
    for draw in range(draws[1]):
        images = calibration(train, draw)
        for budget, amount in (("macs", macs), ("mipp's widths", widths)):
            for method in ("l1", "l2", "random"):
                key = {"network": name, "macs": round(macs, 4), "draw": draw, "budget": budget, "method": method}
                record.measure(key, partial(pruned, model, images, method, amount, draw, test))


def dense(model: nn.Module, test: zoo.ImageData) -> Row:
    return {"accuracy": accuracy(model, test)}


def pruned(
    model: nn.Module, images: Tensor, method: str, budget: float | dict[str, int], draw: int, test: zoo.ImageData
) -> Row:
    """One run: seconds of the whole call, and test accuracy with and without compensation."""
    wanted = mipp.Budget(macs=budget) if isinstance(budget, float) else mipp.Budget(widths=budget)
    one_pass = forward_seconds(model, images)
    start = time.perf_counter()
    result = mipp.prune(
        model, [images], wanted, mipp.methods.all()[method](), exclude=EXCLUDED, seed=draw, progress=False
    )
    seconds = time.perf_counter() - start
    return {
        "accuracy": accuracy(result.model, test),
        "accuracy without compensation": accuracy(mipp.apply(result.plan, model), test),
        "macs ratio": result.report.before.macs / result.report.after.macs,
        "params ratio": result.report.before.params / result.report.after.params,
        "seconds": round(seconds, 2),
        "forward passes": round(seconds / one_pass, 2),
        "phases": {k: round(v, 2) for k, v in result.report.seconds.items()},
        "widths": result.plan.widths,
    }


def calibration(train: zoo.ImageData, draw: int) -> Tensor:
    """A draw of unlabelled training images."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
    return train.normalised(order[:SAMPLES])


def pretrained(name: str, folder: Path) -> nn.Module:
    model: nn.Module = zoo.networks()[name]()
    model.load_state_dict(load_file(folder / WEIGHTS[name]))
    return model.eval()


def accuracy(model: nn.Module, data: zoo.ImageData) -> float:
    """Test accuracy in percent, on a copy in the memory layout that is fastest."""
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return round(zoo.accuracy(fast, data), 2)


def forward_seconds(model: nn.Module, images: Tensor) -> float:
    """Time of one pass over the calibration images."""
    with torch.inference_mode():
        model(images[:128])
        start = time.perf_counter()
        for part in images.split(128):
            model(part)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
