"""Estimators side by side: seconds per layer, agreement of what they keep, and the paper's preset along its schedule.

    MIPP_DATA_DIR=... python -m benchmarks.estimators [--part time|vgg|paper] [--shard I/N] [--smoke]

The runs along the schedule may be shared out among N processes: process I of N (from 0) does every N-th.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

import mipp
from benchmarks.lenet_mnist import trained
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.data.calibration import read
from mipp.estimators import MLP, Estimator, Gaussian, Samples, Surrogate
from mipp.graph.builder import Draft
from mipp.methods import MIPP
from mipp.plan.elimination import terc
from mipp.statistics.layer_samples import Reading, adjacent_samples

SAMPLES = 1024
SEEDS = 2
CONFIDENCE = 0.95
CONFIDENCES = tuple(mipp.confidence_schedule(20)[n] for n in (0, 1, 2, 4, 9))
VGG_LAYER, VGG_EPOCHS = "features.4", 1
READING = Reading("l1", "post", 64)
PARTS = ("time", "vgg", "paper")
ESTIMATORS: dict[str, Estimator] = {"gaussian": Gaussian(), "surrogate": Surrogate(), "mlp": MLP()}
QUICK: dict[str, Estimator] = {
    "gaussian": Gaussian(),
    "surrogate": Surrogate(iterations=20),
    "mlp": MLP(hidden=(16,), initial_iterations=20, ordering_iterations=2, retrain_iterations=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="all of them by default")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="of the runs along the schedule, every N-th")
    parser.add_argument("--smoke", action="store_true", help="tiny perceptrons, nothing kept: does the program run?")
    options = parser.parse_args()
    record = Record(
        "estimators",
        samples=SAMPLES,
        confidence=CONFIDENCE,
        reading=repr(READING),
        estimators={name: repr(e) for name, e in ESTIMATORS.items()},
    )
    if options.smoke:
        record.path, record.rows = Path(tempfile.mkdtemp()) / "estimators.json", []
    estimators = QUICK if options.smoke else ESTIMATORS
    first, step = map(int, options.shard.split("/"))
    parts = {
        "time": lenet_layers,
        "vgg": vgg_layer,
        "paper": partial(along_the_schedule, runs=list(product(range(SEEDS), CONFIDENCES))[first::step]),
    }
    for name in options.part or PARTS:
        parts[name](record, estimators)
    record.save()


def lenet_layers(record: Record, estimators: Mapping[str, Estimator]) -> None:
    """Every layer of LeNet-5, dense targets."""
    train = zoo.load("mnist", "train")
    model = trained(train, 0)
    for layer in ("conv1", "conv2", "fc1", "fc2"):
        compare(record, estimators, "lenet5", layer, layer_samples(model, images(train, 0), layer))


def vgg_layer(record: Record, estimators: Mapping[str, Estimator]) -> None:
    """One layer of VGG-11 on CIFAR-10, with the paper's 20 iterations per node."""
    train = zoo.load("cifar10", "train")
    torch.manual_seed(0)
    model = zoo.vgg11()
    if estimators is ESTIMATORS:
        zoo.fit(model, train, epochs=VGG_EPOCHS, batch_size=128, augment="crop-flip")
        estimators = {**estimators, "mlp": MLP(retrain_iterations=20)}
    compare(record, estimators, "vgg11", VGG_LAYER, layer_samples(model.eval(), images(train, 0), VGG_LAYER))


def along_the_schedule(record: Record, estimators: Mapping[str, Estimator], runs: Sequence[tuple[int, float]]) -> None:
    """The paper's preset on LeNet-5: widths and accuracy of the masked network."""
    train, test = zoo.load("mnist", "train"), zoo.load("mnist", "test")
    quick = {"estimator": estimators["mlp"]} if estimators is QUICK else {}
    for seed, confidence in runs:
        model = trained(train, seed)
        method = MIPP.paper(confidence=confidence, **quick)
        key = {"part": "paper", "seed": seed, "confidence": confidence}
        record.measure(key, partial(pruned, model, images(train, seed), method, seed, test))


def compare(record: Record, estimators: Mapping[str, Estimator], network: str, layer: str, samples: Samples) -> None:
    """Seconds, kept nodes and order by each estimator on the same samples, and how far they agree."""
    rows = {
        name: record.measure(
            {"part": "time", "network": network, "layer": layer, "estimator": name},
            partial(selected, estimator, samples),
        )
        for name, estimator in estimators.items()
    }
    for first, second in combinations(rows, 2):
        key = {"part": "agreement", "network": network, "layer": layer, "estimators": f"{first}, {second}"}
        record.measure(key, partial(agreement, rows[first], rows[second]))


def selected(estimator: Estimator, samples: Samples) -> Row:
    """One selection by TERC, timed from samples to kept nodes."""
    start = time.perf_counter()
    information = estimator(samples, torch.Generator().manual_seed(0))
    marginal = information.marginal()
    kept = terc(information, CONFIDENCE, "mi")
    seconds = time.perf_counter() - start
    return {
        "nodes": len(marginal),
        "seconds": round(seconds, 4),
        "kept": list(kept),
        "marginal": [round(v, 6) for v in marginal.tolist()],
    }


def agreement(first: Row, second: Row) -> Row:
    """Kendall's tau of the order of nodes; and the kept sets' intersection over union, also as expected by chance."""
    a, b = set(first["kept"]), set(second["kept"])
    chance = len(a) * len(b) / first["nodes"]
    return {
        "tau": round(float(stats.kendalltau(first["marginal"], second["marginal"]).statistic), 4),
        "overlap": round(len(a & b) / max(len(a | b), 1), 4),
        "overlap by chance": round(chance / max(len(a) + len(b) - chance, 1), 4),
    }


def pruned(model: nn.Module, inputs: Tensor, method: MIPP, seed: int, test: zoo.ImageData) -> Row:
    """One faithful run: masks only, nothing refitted."""
    result = mipp.prune(model, [inputs], method=method, compensate=False, seed=seed, progress=False)
    return {
        "widths": result.plan.widths,
        "nodes": result.report.after.nodes,
        "accuracy": round(zoo.accuracy(result.model, test), 2),
        "selection seconds": round(result.report.seconds["selection"], 1),
    }


def layer_samples(model: nn.Module, inputs: Tensor, layer: str) -> Samples:
    """Samples of one layer and its reader on the calibration images."""
    batches = read(mipp.Calibration([inputs]), None)
    graph = Draft(model, batches[0].call).graph()
    found = adjacent_samples(model, graph, graph.groups[layer], batches, np.ones(graph.num_nodes, bool), READING)
    return found[0]


def images(train: zoo.ImageData, seed: int) -> Tensor:
    """Unlabelled training images, without augmentation."""
    return train.normalise(torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:SAMPLES])


if __name__ == "__main__":
    main()
