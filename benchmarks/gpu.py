"""Time and memory on a GPU, beside its CPU where that takes seconds; random data, and random weights unless given.

    python -m benchmarks.gpu [--weights FOLDER] [--smoke]

Every prune call measures the whole of it: tracing, statistics, selection, proof, refit and the latencies of the report.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import mipp
from benchmarks.cifar import WEIGHTS
from benchmarks.record import Record, Row
from benchmarks.wide import FeedForward
from mipp import zoo
from mipp.estimators import MLP, Estimator, Gaussian, GaussianInformation, Samples, Surrogate
from mipp.plan.elimination import backward_elimination, terc
from mipp.statistics.moments import Moments

DEVICES = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
IMAGES = 1024
ESTIMATORS: dict[str, Estimator] = {"gaussian": Gaussian(), "surrogate": Surrogate(), "mlp": MLP()}
SELECTED = {"cuda": (512, 1024, 2048, 4096, 8192), "cpu": (512, 1024, 2048, 4096)}  # features
TARGETS = 512
SOLVED = {"cuda": 8192, "cpu": 2048}
SMOKE = {"images": 32, "side": 64, "width": 64, "nodes": 4, "selected": (32,), "solved": 64}


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    """The shape of ViT-B/16 by default."""

    def __init__(self, width: int = 768, heads: int = 12, depth: int = 12, side: int = 224) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, (side // 16) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


def main() -> None:
    """Writes benchmarks/results/gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="folder of the pretrained .safetensors files of ResNet-20 and -56")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, nothing kept: does the program run?")
    options = parser.parse_args()
    record = Record("gpu", images=IMAGES, targets=TARGETS, weights="pretrained" if options.weights else "random")
    if options.smoke:
        record.path, record.rows = Path(tempfile.mkdtemp()) / "gpu.json", []
    for device in DEVICES:
        warm_up(device)
        networks(record, device, options.weights, smoke=options.smoke)
        linear_algebra(record, device, smoke=options.smoke)
        selections(record, device, smoke=options.smoke)
        estimators(record, device, smoke=options.smoke)


def warm_up(device: str) -> None:
    """Whatever is set up once per process is not measured."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)).to(device).eval()
    mipp.prune(model, [torch.randn(8, 3, 16, 16)], mipp.Budget(macs=0.5), progress=False)
    torch.linalg.solve(torch.eye(64, device=device).double(), torch.ones(64, 1, device=device).double())


def networks(record: Record, device: str, weights: Path | None, *, smoke: bool) -> None:
    """Whole prune calls; the large networks on the GPU only."""
    half, images = mipp.Budget(macs=0.5), SMOKE["images"] if smoke else IMAGES
    for name in WEIGHTS:
        make = partial(residual, name, weights)
        record.measure(
            {"part": "prune", "network": name, "device": device, "memory limit": "default"},
            partial(pruned, make, torch.randn(images, 3, 32, 32), half, device),
        )
    if device == "cpu" and not smoke:
        return
    large, side, width = images // 4, SMOKE["side"] if smoke else 224, SMOKE["width"]
    square = torch.randn(large, 3, side, side)
    ffn = FeedForward if not smoke else partial(FeedForward, width, 2 * width)
    vit = VisionTransformer if not smoke else partial(VisionTransformer, width, 4, 2, side)
    resnet = partial(zoo.resnet50, 1000, **({"widths": (8, 8, 8, 8)} if smoke else {}))
    x = 4096 if not smoke else width
    kept = mipp.Budget(widths={"gate": 5504 if not smoke else width})
    cases: list[tuple[str, Callable[[], nn.Module], Tensor, mipp.Budget, str]] = [
        ("ResNet-50", resnet, square, half, "default"),
        ("ViT-B/16 shape", vit, square, half, "default"),
        ("Llama-7B feed-forward", ffn, torch.randn(128, 64, x), kept, "default"),
        ("Llama-7B feed-forward", ffn, torch.randn(128, 64, x), kept, "16GB"),
    ]
    for name, make, inputs, budget, limit in cases:
        key = {"part": "prune", "network": name, "device": device, "memory limit": limit}
        record.measure(key, partial(pruned, make, inputs, budget, device, limit))


def residual(name: str, weights: Path | None) -> nn.Module:
    model: nn.Module = getattr(zoo, name)()
    if weights is not None:
        model.load_state_dict(load_file(weights / WEIGHTS[name]))
    return model


def pruned(
    make: Callable[[], nn.Module], inputs: Tensor, budget: mipp.Budget, device: str, limit: str = "default"
) -> Row:
    """Seconds and, on a GPU, the highest memory beyond that of the model, in MB; batches are on the CPU."""
    torch.manual_seed(0)
    with torch.device(device):
        model = make().eval()
    data, given = list(inputs.split(32)), None if limit == "default" else limit
    before = allocated(device)
    seconds, result = timed(
        lambda: mipp.prune(model, data, budget, memory_limit=given, progress=False), device, repeats=1
    )
    row = {
        "images": len(inputs),
        "seconds": round(seconds, 2),
        "phases": {phase: round(s, 2) for phase, s in result.report.seconds.items()},
        "macs": round(result.report.after.macs / result.report.before.macs, 4),
        "latency_ms": [round(m.latency_ms or 0, 3) for m in (result.report.before, result.report.after)],
        "notes": [note for note in result.report.notes if "memory_limit" in note],
    }
    peak = {"peak GPU memory": round((torch.cuda.max_memory_allocated() - before) / 1e6)} if device == "cuda" else {}
    return {**row, **peak}


def allocated(device: str) -> int:
    """Bytes that live on the GPU; from here on the peak is measured anew."""
    if device == "cpu":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def linear_algebra(record: Record, device: str, *, smoke: bool) -> None:
    """Rates in float64, in GFLOP/s, and their fraction of the measured rate of a product."""
    n = SMOKE["solved"] if smoke else SOLVED[device]
    key = {"part": "linear algebra", "device": device, "features": n}
    record.measure(key, partial(rates, n, device))


def rates(n: int, device: str) -> Row:
    a = torch.randn(n, n, device=device, dtype=torch.float64)
    rows = torch.randn(n, n, device=device)
    definite = a @ a.mT / n + torch.eye(n, device=device, dtype=torch.float64)
    moments = Moments(n, a.device)
    work: dict[str, tuple[float, Callable[[], object]]] = {
        "product": (2 * n**3, lambda: a @ a),
        "moments": (2 * n**3, lambda: moments.update(rows)),
        "solve": (2 / 3 * n**3 + 2 * n**3, lambda: torch.linalg.solve(definite, a)),
        "factor and invert": (n**3, lambda: torch.cholesky_inverse(torch.linalg.cholesky(definite))),
    }
    rate = {name: flops / timed(function, device)[0] / 1e9 for name, (flops, function) in work.items()}
    return {
        "GFLOP/s": {name: round(r, 1) for name, r in rate.items()},
        "of the product": {name: round(r / rate["product"], 3) for name, r in rate.items()},
    }


def selections(record: Record, device: str, *, smoke: bool) -> None:
    """Greedy elimination in closed form, by the number of features."""
    for n in SMOKE["selected"] if smoke else SELECTED[device]:
        key = {"part": "selection", "device": device, "features": n}
        record.measure(key, partial(eliminated, n, device))


def eliminated(n: int, device: str) -> Row:
    """From the second moments of a layer to the order in which its nodes go."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(n, 2 * n, generator=generator, dtype=torch.float64).to(device)
    weight = torch.randn(min(TARGETS, n), n, generator=generator, dtype=torch.float64).to(device)
    xx = root @ root.mT / (2 * n)
    xy = xx @ weight.mT
    yy = weight @ xy

    def run() -> None:
        information = GaussianInformation(xx, xy, yy, torch.arange(n)[:, None], yy.diagonal(), 2 * n)
        backward_elimination(information)

    return {"seconds": round(timed(run, device, repeats=1)[0], 3)}


def estimators(record: Record, device: str, *, smoke: bool) -> None:
    """One layer, from samples to the nodes that pass the test."""
    nodes = SMOKE["nodes"] if smoke else 64
    for name, estimator in ESTIMATORS.items():
        key = {"part": "estimator", "device": device, "nodes": nodes, "estimator": repr(estimator), "name": name}
        record.measure(key, partial(tested, estimator, nodes, device))


def tested(estimator: Estimator, nodes: int, device: str) -> Row:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(IMAGES, nodes, generator=generator)
    mixed = x @ torch.randn(nodes, nodes, generator=generator) / nodes**0.5
    y = mixed.relu() + 0.1 * torch.randn(IMAGES, nodes, generator=generator)
    samples = Samples.of(x.to(device), y.to(device), 1.0)

    def run() -> int:
        return len(terc(estimator(samples, torch.Generator().manual_seed(0)), 0.95, "mi"))

    seconds, kept = timed(run, device, repeats=1)
    return {"seconds": round(seconds, 3), "kept": kept}


def timed(function: Callable[[], Any], device: str, repeats: int = 3) -> tuple[float, Any]:
    """Seconds of the fastest call, and what the last one returned."""
    best = float("inf")
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = function()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best, result


if __name__ == "__main__":
    main()
