"""Accuracy before any retraining, and where it comes from.

    MIPP_DATA_DIR=... python -m benchmarks.accuracy PIECE --weights FOLDER [--draws N] [--shard I/N]

Pieces: `table` (MIPP and its peers, as published, refitted, and after label-free recovery of at most a minute), `best`
(the same at `effort="best"`, with four times the images and five minutes), `parts` (worth of widths, nodes, refit and
recovery), `calibration` (how many images, which), `curve` (ResNet-56 from one set of statistics), `labels` (ResNet-56
after ten epochs with labels). `parts` and `curve` draw their plots. All but those of `best` get the same 1,024
unlabelled training images (Taylor: with labels), and all get the same refit. The test set is read when a row is made
and never before: defaults were chosen by agreement with the dense network on other training images.
Networks whose weights are not in the folder are left out. Process I of N does every N-th row.
"""

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, WEIGHTS, accuracy, forward_seconds
from benchmarks.cifar_networks import dense, path_of
from benchmarks.record import Record, Row
from benchmarks.rivals import TorchPruning
from mipp import zoo
from mipp.data.calibration import read
from mipp.methods import Method, Random
from mipp.plan.effort import EFFORTS
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.distillation import distill
from mipp.refit.learner import multiplies_bfloat16

CASES: tuple[tuple[str, dict[str, float]], ...] = (
    ("resnet56", {"macs": 1 / 2.11}),
    ("resnet56", {"macs": 1 / 2.57}),
    ("resnet20", {"macs": 0.5}),
    ("resnet20", {"macs": 1 / 3}),
    ("vgg11", {"params": 0.2}),
    ("mobilenetv2", {"macs": 0.7}),
    ("vit", {"macs": 0.7}),
)
PEERS = ("random", "l1", "taylor", "wanda", *(f"torch-pruning {score}" for score in ("l1", "taylor", "hessian")))
CLOSEST = ("l1", "torch-pruning l1", "torch-pruning hessian")
"""The peers that come closest to MIPP in the table."""
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
CURVE = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
EPOCHS = 10
MINUTES = {"default": 1, "best": 5}
"""Time for recovery at each level of effort."""
PAGES = Path(__file__).parents[1] / "docs"
Labelled = Sequence[tuple[Tensor, Tensor]]
Rows = list[tuple[Row, Callable[[], Row]]]
Level = Literal["fast", "default", "best"]


@dataclass(frozen=True, eq=False)
class Bench:
    """The settings that all rows share.

    Attributes:
        weights: Folder of the trained weights.
        train: What calibration images are drawn from.
        test: What accuracy is measured on.
        recovers: Whether what MIPP leaves is distilled after the refit.
    """

    weights: Path
    train: zoo.ImageData
    test: zoo.ImageData
    recovers: bool = True

    def has(self, network: str) -> bool:
        return path_of(self.weights, network).exists()

    def dense(self, network: str) -> nn.Module:
        return dense(network, self.weights)

    @cache  # noqa: B019 - there is one bench
    def dense_accuracy(self, network: str) -> float:
        return self.accuracy(self.dense(network))

    def draw(self, seed: int, count: int = SAMPLES) -> Labelled:
        """Training images, with labels for the methods that read them."""
        return list(self.train.batches(128, limit=count, generator=torch.Generator().manual_seed(seed)))

    def accuracy(self, model: nn.Module) -> float:
        return accuracy(model, self.test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--draws", type=int, default=3, help="calibration draws for MIPP")
    parser.add_argument("--peer-draws", type=int, default=1, help="calibration draws for the peers in the table")
    parser.add_argument("--method", action="append", help="only rows of this method")
    parser.add_argument("--network", action="append", help="only rows of this network")
    parser.add_argument("--no-recovery", action="store_true", help="leave out what takes minutes after the refit")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th row from the I-th")
    options = parser.parse_args()
    bench = Bench(options.weights, zoo.load("cifar10", "train"), zoo.load("cifar10", "test"), not options.no_recovery)
    samples = EFFORTS["best"].samples if options.piece == "best" else SAMPLES
    record = Record(f"accuracy_{options.piece}", samples=samples)
    first, step = map(int, options.shard.split("/"))
    rows = [row for draw in range(options.draws) for row in PIECES[options.piece](bench, draw)]
    rows = [(key, run) for key, run in rows if key.get("method", "mipp") == "mipp" or key["draw"] < options.peer_draws]
    for name, wanted in (("method", options.method), ("network", options.network)):
        rows = [(key, run) for key, run in rows if not wanted or key.get(name) in wanted]
    for key, run in islice(rows, first, None, step):
        record.measure(key, run)
    record.save()
    if options.piece in PLOTS:
        PLOTS[options.piece](record.rows).savefig(PAGES / f"accuracy-{options.piece}.svg")


def table(bench: Bench, draw: int, methods: Sequence[str] = PEERS, effort: Level = "default") -> Rows:
    """Every network at its budget by MIPP and its peers."""
    found: Rows = []
    for network, budget in CASES:
        for method in ("mipp", *methods) if bench.has(network) else ():
            if network == "vit" and "torch-pruning" in method:  # it has to be told the heads of every attention
                continue
            key = {"network": network, **{k: round(v, 4) for k, v in budget.items()}, "method": method, "draw": draw}
            found.append((key, partial(compared, bench, network, budget, method, draw, effort)))
    return found


def compared(bench: Bench, network: str, budget: Mapping[str, float], method: str, draw: int, effort: Level) -> Row:
    """As published, with the refit, and, for MIPP, after recovery."""
    dense, data, exclude = bench.dense(network), bench.draw(draw, EFFORTS[effort].samples), _stream(network)
    fixed = mipp.Budget(**budget)  # type: ignore[arg-type]
    one_pass = forward_seconds(dense, torch.cat([images for images, _ in data]))
    start = time.perf_counter()
    result = pruned(dense, data, fixed, peer(method, exclude), exclude, draw, effort=effort)
    seconds = time.perf_counter() - start
    before, after = result.report.before, result.report.after
    row = {
        "dense": bench.dense_accuracy(network),
        "as published": bench.accuracy(mipp.apply(result.plan, dense)),
        "refit": bench.accuracy(result.model),
        "macs ratio": before.macs / after.macs,
        "params ratio": before.params / after.params,
        "seconds": round(seconds, 2),
        "forward passes": round(seconds / one_pass, 2),
        "phases": {k: round(v, 2) for k, v in result.report.seconds.items()},
        "widths": result.plan.widths,
    }
    if method == "mipp" and bench.recovers:
        start = time.perf_counter()
        learned = recovered(dense, result.model, result.plan, data, exclude, draw, MINUTES[effort])
        row["recovery seconds"] = round(time.perf_counter() - start, 2)
        row["recover"] = bench.accuracy(learned)
    return row


def parts(bench: Bench, draw: int) -> Rows:
    """Widths of equal fractions or MIPP's, and random nodes, L1's or MIPP's, each bare, refitted, and recovered."""
    found: Rows = []
    for widths in ("equal", "mipp"):
        for nodes in ("random", "l1", "mipp"):
            key = {"network": "resnet20", "macs": 0.5, "widths": widths, "nodes": nodes, "draw": draw}
            found.append((key, partial(decomposed, bench, widths, nodes, draw)))
    return found


def decomposed(bench: Bench, widths: str, nodes: str, draw: int) -> Row:
    dense, data, exclude = bench.dense("resnet20"), bench.draw(draw), _stream("resnet20")
    source: Method = mipp.methods.MIPP() if widths == "mipp" else Random()
    given = pruned(dense, data, mipp.Budget(macs=0.5), source, exclude, draw, compensate=False).plan.widths
    result = pruned(dense, data, mipp.Budget(widths=given), mipp.methods.all()[nodes](), exclude, draw)
    bare = mipp.apply(result.plan, dense)
    models = {"bare": bare, "refit": result.model}
    models |= {
        f"{name}, recover": recovered(dense, model, result.plan, data, exclude, draw) for name, model in models.items()
    }
    return {name: bench.accuracy(model) for name, model in models.items()}


def calibration(bench: Bench, draw: int) -> Rows:
    """ResNet-20 at half of its MACs, calibrated on more and fewer images, and on others."""
    sources: dict[str, Callable[[], Labelled]] = {
        f"{size:,} training images": partial(bench.draw, draw, size) for size in SIZES
    }
    sources |= {
        "1,024 and their mirror images": partial(_mirrored, bench, draw),
        "1,024 of two classes": partial(_few_classes, bench, draw),
        "1,024 handwritten digits": partial(_digits, draw),
        "1,024 of normal noise": partial(_noise, draw),
    }
    found: Rows = []
    for name, make in sources.items():
        key = {"network": "resnet20", "macs": 0.5, "calibration": name, "draw": draw}
        found.append((key, partial(calibrated, bench, make, draw)))
    return found


def calibrated(bench: Bench, make: Callable[[], Labelled], draw: int) -> Row:
    dense, data = bench.dense("resnet20"), mipp.Calibration(make(), max_samples=None)
    start = time.perf_counter()
    result = mipp.prune(dense, data, mipp.Budget(macs=0.5), exclude=EXCLUDED, seed=draw, progress=False)
    seconds = round(time.perf_counter() - start, 2)
    return {"refit": bench.accuracy(result.model), "seconds": seconds}


def curve(bench: Bench, draw: int) -> Rows:
    """ResNet-56 at many budgets from one set of statistics."""
    return [
        ({"network": "resnet56", "draw": draw, "method": m}, partial(along, bench, m, draw)) for m in ("mipp", "l1")
    ]


def along(bench: Bench, method: str, draw: int) -> Row:
    dense, data = bench.dense("resnet56"), [images for images, _ in bench.draw(draw)]
    start = time.perf_counter()
    found = mipp.frontier(
        dense, data, [mipp.Budget(macs=m) for m in CURVE], mipp.methods.all()[method](), exclude=EXCLUDED, seed=draw,
        progress=False,
    )  # fmt: skip
    seconds = round(time.perf_counter() - start, 2)
    points = [
        {
            "macs": round(r.report.after.macs / r.report.before.macs, 4),
            "as published": bench.accuracy(mipp.apply(r.plan, dense)),
            "refit": bench.accuracy(r.model),
        }
        for r in found
    ]
    return {"points": points, "seconds": seconds}


def labels(bench: Bench, draw: int) -> Rows:
    """ResNet-56 trained further with labels, from the refitted and recovered network."""
    network, budget = CASES[0]
    key = {"network": network, **{k: round(v, 4) for k, v in budget.items()}, "epochs": EPOCHS, "draw": draw}
    return [(key, partial(retrained, bench, network, budget, draw))]


def retrained(bench: Bench, network: str, budget: Mapping[str, float], draw: int) -> Row:
    """Accuracy before and after training with labels and the dense network's outputs."""
    dense, data, exclude = bench.dense(network), bench.draw(draw), _stream(network)
    result = pruned(dense, data, mipp.Budget(**budget), mipp.methods.MIPP(), exclude, draw)  # type: ignore[arg-type]
    model = recovered(dense, result.model, result.plan, data, exclude, draw)
    row = {"dense": bench.dense_accuracy(network), "recover": bench.accuracy(model)}
    start = time.perf_counter()
    for one in (model, dense):
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    zoo.fit(
        model, bench.train, epochs=EPOCHS, learning_rate=0.02, batch_size=128, augment="crop-flip", seed=draw,
        autocast_bf16=multiplies_bfloat16(torch.device("cpu")), teacher=dense,
    )  # fmt: skip
    return {**row, "trained": bench.accuracy(model), "minutes": round((time.perf_counter() - start) / 60, 2)}


def pruned(
    dense: nn.Module,
    data: Labelled,
    budget: mipp.Budget,
    method: Method,
    exclude: tuple[str, ...],
    draw: int,
    *,
    compensate: bool = True,
    effort: Level = "default",
) -> mipp.Result:
    """One prune, with labels for the methods that read them."""
    return mipp.prune(
        dense, data, budget, method, exclude=exclude, compensate=compensate, loss_fn=nn.functional.cross_entropy,
        seed=draw, effort=effort, progress=False,
    )  # fmt: skip


def recovered(
    dense: nn.Module,
    small: nn.Module,
    plan: PruningPlan,
    data: Labelled,
    exclude: tuple[str, ...],
    draw: int,
    minutes: float = 1,
) -> nn.Module:
    """A pruned network after distillation from the dense one, as `recover="distill"` does it."""
    batches = read(mipp.Calibration(data, max_samples=None), None)
    found = mipp.inspect(dense, data[0][0], exclude)
    learner = copy.deepcopy(small)
    task = Task(dense, found.graph, found.cost, batches, seed=draw)
    distill(learner, dense, plan, task, mipp.Distillation(seconds=60 * minutes))
    return learner


def peer(method: str, exclude: tuple[str, ...]) -> Method:
    """A method by its key."""
    library, _, score = method.rpartition(" ")
    return TorchPruning(score, exclude) if library else mipp.methods.all()[method]()


def _stream(network: str) -> tuple[str, ...]:
    return EXCLUDED if network in WEIGHTS else ()


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


def plot_parts(rows: list[Row]) -> Figure:
    """A bar for every stage, in groups by widths and nodes."""
    figure, axes = _axes("accuracy on the test set, %")
    stages = ("bare", "refit", "bare, recover", "refit, recover")
    groups = list(dict.fromkeys((row["widths"], row["nodes"]) for row in rows))
    for place, stage in enumerate(stages):
        values = [[r[stage] for r in rows if (r["widths"], r["nodes"]) == group] for group in groups]
        places = [index + 0.2 * (place - 1.5) for index in range(len(groups))]
        axes.bar(
            places, [mean(v) for v in values], 0.19, yerr=[stdev(v) if len(v) > 1 else 0.0 for v in values], label=stage
        )
    axes.set_xticks(range(len(groups)), [f"{widths} widths,\n{nodes} nodes" for widths, nodes in groups])
    axes.set_title(f"ResNet-20, MACs ÷ 2, n = {len(rows) // len(groups)}", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=len(stages))
    return figure


def plot_curve(rows: list[Row]) -> Figure:
    """Accuracy against MACs, as published and refitted, by method."""
    figure, axes = _axes("accuracy on the test set, %")
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        draws = [row["points"] for row in rows if row["method"] == method]
        for stage, line in (("refit", "-"), ("as published", ":")):
            points = list(zip(*draws, strict=True))
            across = [mean(p["macs"] for p in point) for point in points]
            up = [mean(p[stage] for p in point) for point in points]
            axes.plot(across, up, f"o{line}", color=f"C{number}", label=f"{method}, {stage}", markersize=3)
    axes.set_xlabel("fraction of MACs kept")
    axes.set_title(f"ResNet-56, n = {len(draws)}", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def _axes(what: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    return figure, axes


PLOTS: Mapping[str, Callable[[list[Row]], Figure]] = {"parts": plot_parts, "curve": plot_curve}
PIECES: Mapping[str, Callable[[Bench, int], Rows]] = {
    "table": table,
    "best": partial(table, methods=CLOSEST, effort="best"),
    "parts": parts,
    "calibration": calibration,
    "curve": curve,
    "labels": labels,
}

if __name__ == "__main__":
    main()
