"""Accuracy before any retraining, and where it comes from.

    MIPP_DATA_DIR=... python -m benchmarks.accuracy PIECE --weights FOLDER [--draws 3] [--shard I/N]

Pieces: `table` (MIPP and its peers on five networks, as published, refitted, and after label-free recovery of at most a
minute), `parts` (what widths, choice of nodes, refit and recovery are worth alone), `calibration` (how many images,
which). All get the same 1,024 unlabelled training images (Taylor: with labels) and the same refit. The test set is read
when a row is made and never before: defaults were chosen by agreement with the dense network on other training images.
A piece may be shared out among N processes: process I of N (from 0) does every N-th row.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import nn

import mipp
from benchmarks.cifar_networks import trained
from benchmarks.record import Record, Row
from benchmarks.resnet_cifar import WEIGHTS, accuracy, forward_seconds, pretrained
from benchmarks.torch_pruner import Labelled, plan_of, torch_pruning
from mipp import zoo
from mipp.methods import Method, Random
from mipp.plan import PruningPlan

SAMPLES = 1024
CASES: tuple[tuple[str, dict[str, float]], ...] = (
    ("resnet56", {"macs": 1 / 2.11}),
    ("resnet56", {"macs": 1 / 2.57}),
    ("resnet20", {"macs": 0.5}),
    ("vgg11", {"params": 0.2}),
    ("mobilenetv2", {"macs": 0.7}),
    ("vit", {"macs": 0.7}),
)
PEERS = ("random", "l1", "taylor", "wanda", "torch-pruning taylor", "torch-pruning hessian")
STREAM = {"resnet20": ("conv1",), "resnet56": ("conv1",)}  # the first stage's residual stream stays for all methods
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    weights: Path
    train: zoo.ImageData
    test: zoo.ImageData

    def dense(self, network: str) -> nn.Module:
        return pretrained(network, self.weights) if network in WEIGHTS else trained(network, self.weights)

    def draw(self, seed: int, count: int = SAMPLES) -> Labelled:
        """A draw of training images, with labels for the methods that read them."""
        generator = torch.Generator().manual_seed(seed)
        return list(self.train.batches(128, limit=count, generator=generator))


@dataclass(frozen=True)
class Fixed:
    """Keeps what a plan keeps."""

    chosen: PruningPlan

    def plan(self, task: mipp.methods.Task, budget: mipp.Budget) -> PruningPlan:
        return task.plan(self.chosen.kept, self, budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--draws", type=int, default=3, help="calibration draws")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th row from the I-th")
    options = parser.parse_args()
    bench = Bench(options.weights, zoo.load("cifar10", "train"), zoo.load("cifar10", "test"))
    record = Record(f"accuracy_{options.piece}", samples=SAMPLES)
    first, step = map(int, options.shard.split("/"))
    rows = [(key, measure) for draw in range(options.draws) for key, measure in PIECES[options.piece](bench, draw)]
    for key, measure in islice(rows, first, None, step):
        record.measure(key, measure)


Rows = list[tuple[Row, Callable[[], Row]]]


def table(bench: Bench, draw: int) -> Rows:
    """Every network at its budget by MIPP and its peers."""
    found: Rows = []
    for network, budget in CASES:
        for method in ("mipp", *PEERS):
            key = {"network": network, **budget, "method": method, "draw": draw}
            found.append((key, partial(compared, bench, network, budget, method, draw)))
    return found


def compared(bench: Bench, network: str, budget: Mapping[str, float], method: str, draw: int) -> Row:
    """As published, with the refit, and, for MIPP, after recovery."""
    dense, data = bench.dense(network), bench.draw(draw)
    exclude, fixed = STREAM.get(network, ()), mipp.Budget(**budget)
    chosen = peer(method, dense, data, fixed, exclude)
    one_pass = forward_seconds(dense, torch.cat([images for images, _ in data]))
    bare = pruned(dense, data, fixed, chosen, exclude, draw, compensate=False)
    start = time.perf_counter()
    refitted = pruned(dense, data, fixed, chosen, exclude, draw)
    seconds = time.perf_counter() - start
    row = {
        "dense": accuracy(dense, bench.test),
        "as published": accuracy(bare.model, bench.test),
        "refit": accuracy(refitted.model, bench.test),
        "macs ratio": refitted.report.before.macs / refitted.report.after.macs,
        "params ratio": refitted.report.before.params / refitted.report.after.params,
        "seconds": round(seconds, 2),
        "forward passes": round(seconds / one_pass, 2),
        "phases": {k: round(v, 2) for k, v in refitted.report.seconds.items()},
        "widths": refitted.plan.widths,
    }
    if method == "mipp":
        recovered = pruned(dense, data, fixed, chosen, exclude, draw, recover="distill")
        row |= {
            "recover": accuracy(recovered.model, bench.test),
            "recovery seconds": round(recovered.report.seconds["recovery"], 2),
        }
    return row


def parts(bench: Bench, draw: int) -> Rows:
    """Widths of equal fractions or MIPP's, random nodes or MIPP's, each bare, refitted, and recovered."""
    found: Rows = []
    for network, budget in (("resnet20", {"macs": 0.5}), ("resnet56", {"macs": 1 / 2.11})):
        for widths in ("equal", "mipp"):
            for nodes in ("random", "l1", "mipp"):
                key = {"network": network, **budget, "widths": widths, "nodes": nodes, "draw": draw}
                found.append((key, partial(decomposed, bench, network, budget, widths, nodes, draw)))
    return found


def decomposed(bench: Bench, network: str, budget: Mapping[str, float], widths: str, nodes: str, draw: int) -> Row:
    dense, data, exclude = bench.dense(network), bench.draw(draw), STREAM.get(network, ())
    source: Method = mipp.methods.MIPP() if widths == "mipp" else Random()
    given = pruned(dense, data, mipp.Budget(**budget), source, exclude, draw, compensate=False).plan.widths
    method = mipp.methods.all()[nodes]()
    fixed = mipp.Budget(widths=given)
    variants: dict[str, dict[str, object]] = {
        "bare": {"compensate": False},
        "refit": {},
        "recover": {"recover": "distill"},
        "recover without refit": {"compensate": False, "recover": "distill"},
    }
    models = {name: pruned(dense, data, fixed, method, exclude, draw, **how).model for name, how in variants.items()}
    return {name: accuracy(model, bench.test) for name, model in models.items()}


def calibration(bench: Bench, draw: int) -> Rows:
    """ResNet-20 at half of its MACs, calibrated on more and fewer images, and on others."""
    sources = {f"{size} training images": partial(bench.draw, draw, size) for size in SIZES}
    sources |= {
        "noise": partial(_noise, draw),
        "handwritten digits": partial(_digits, draw),
        "two classes": partial(_few_classes, bench, draw),
        "mirrored as well": partial(_mirrored, bench, draw),
    }
    found: Rows = []
    for name, make in sources.items():
        key = {"network": "resnet20", "macs": 0.5, "calibration": name, "draw": draw}
        found.append((key, partial(calibrated, bench, make, draw)))
    return found


def calibrated(bench: Bench, make: Callable[[], Labelled], draw: int) -> Row:
    dense = bench.dense("resnet20")
    data = mipp.Calibration(make(), max_samples=None)
    start = time.perf_counter()
    result = mipp.prune(dense, data, mipp.Budget(macs=0.5), exclude=STREAM["resnet20"], seed=draw, progress=False)
    seconds = round(time.perf_counter() - start, 2)
    return {"refit": accuracy(result.model, bench.test), "seconds": seconds}


def pruned(
    dense: nn.Module,
    data: Labelled,
    budget: mipp.Budget,
    method: Method,
    exclude: tuple[str, ...],
    draw: int,
    **options: object,
) -> mipp.Result:
    """One prune, with labels for the methods that read them."""
    loss = nn.functional.cross_entropy
    return mipp.prune(dense, data, budget, method, exclude=exclude, loss_fn=loss, seed=draw, progress=False, **options)  # type: ignore[arg-type]


def peer(method: str, dense: nn.Module, data: Labelled, budget: mipp.Budget, exclude: tuple[str, ...]) -> Method:
    """A method by its key; what Torch-Pruning keeps becomes a method too, so that it can be refitted."""
    library, _, score = method.rpartition(" ")
    if not library:
        return mipp.methods.all()[method]()
    return Fixed(plan_of(dense, torch_pruning(score, dense, data, budget, exclude), data[0][0][:2], exclude))


def _noise(draw: int) -> Labelled:
    """Normal noise with the mean and deviation of normalised pixels."""
    generator = torch.Generator().manual_seed(draw)
    return [(torch.randn(128, 3, 32, 32, generator=generator), torch.zeros(128)) for _ in range(SAMPLES // 128)]


def _digits(draw: int) -> Labelled:
    """MNIST in three channels of 32 x 32, normalised: another domain."""
    batches = zoo.load("mnist", "train").batches(128, limit=SAMPLES, generator=torch.Generator().manual_seed(draw))
    return [(nn.functional.pad(x, (2, 2, 2, 2), value=float(x.min())).expand(-1, 3, -1, -1), y) for x, y in batches]


def _few_classes(bench: Bench, draw: int) -> Labelled:
    """Images of two of the ten classes."""
    few = bench.train.subset(torch.nonzero(bench.train.labels < 2).flatten())
    return list(few.batches(128, limit=SAMPLES, generator=torch.Generator().manual_seed(draw)))


def _mirrored(bench: Bench, draw: int) -> Labelled:
    """The images and their mirror images."""
    return [part for x, y in bench.draw(draw) for part in ((x, y), (x.flip(3), y))]


PIECES = {"table": table, "parts": parts, "calibration": calibration}

if __name__ == "__main__":
    main()
