"""Choice of nodes alone: LeNet-5 on MNIST at given widths, nothing refitted or retrained, five trained networks.

MIPP_DATA_DIR=... python -m benchmarks.lenet_mnist
"""

import time
from functools import partial

import torch
from torch import Tensor, nn

import mipp
from benchmarks.record import Record, Row
from mipp import zoo

WIDTHS = {"conv1": 6, "conv2": 16, "fc1": 24, "fc2": 18}
SEEDS = 5
EPOCHS = 2
SAMPLES = 1024


def main() -> None:
    train, test = zoo.load("mnist", "train"), zoo.load("mnist", "test")
    record = Record("lenet_mnist", widths=WIDTHS, seeds=SEEDS, epochs=EPOCHS, samples=SAMPLES)
    for seed in range(SEEDS):
        keys: list[Row] = [{"seed": seed, "method": name} for name in ("dense", "mipp", "l1", "l2", "random")]
        if all(map(record.find, keys)):
            continue
        model = trained(train, seed)
        images = train.normalise(torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:SAMPLES])
        record.measure(keys[0], partial(dense, model, test))
        for key in keys[1:]:
            record.measure(key, partial(pruned, model, images, key["method"], seed, test))


def dense(model: nn.Module, test: zoo.ImageData) -> Row:
    return {"accuracy": round(zoo.accuracy(model, test), 2)}


def pruned(model: nn.Module, images: Tensor, method: str, seed: int, test: zoo.ImageData) -> Row:
    """One run at the given widths: masks only, and with the refit."""
    budget, chosen = mipp.Budget(widths=WIDTHS), mipp.methods.all()[method]()
    start = time.perf_counter()
    result = mipp.prune(model, [images], budget, chosen, compensate=False, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    refitted = mipp.prune(model, [images], budget, chosen, seed=seed, progress=False)
    return {
        "accuracy": round(zoo.accuracy(result.model, test), 2),
        "accuracy with compensation": round(zoo.accuracy(refitted.model, test), 2),
        "selection seconds": round(result.report.seconds["selection"], 3),
        "seconds": round(seconds, 3),
    }


def trained(train: zoo.ImageData, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = zoo.LeNet5()
    zoo.fit(model, train, epochs=EPOCHS, batch_size=128, seed=seed)
    return model.eval()


if __name__ == "__main__":
    main()
