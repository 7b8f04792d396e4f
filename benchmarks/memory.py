"""Peak memory of one `prune` call as the calibration data grow, and at full size, each point in a fresh process.

    python -m benchmarks.memory

Batches are made one at a time, so that nobody but the library holds them. At full size (a ResNet-50 at 224 x 224, and a
transformer of the shape of GPT-2) the peak above what model and imports take should stay below 2.5 times the weights,
the memory limit and one batch with its activations together.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import mipp
from benchmarks.imagenet_networks import resnet
from benchmarks.language_models import CharGPT
from benchmarks.record import Record, Row
from mipp import zoo

BATCHES = (4, 40, 400)
SAMPLES = 32
LIMITS = ("100MB", None)
FULL = ("resnet50 at 224", "gpt-2")
FULL_LIMIT, FULL_BATCHES = "500MB", 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", nargs=2, metavar=("BATCHES", "LIMIT"), help="measure one point in this process")
    parser.add_argument("--full", choices=FULL, help="measure one network at full size in this process")
    options = parser.parse_args()
    point = options.point
    if options.full:
        print(json.dumps(measure_full(options.full)))
        return
    if point:
        print(json.dumps(measured(int(point[0]), None if point[1] == "default" else point[1])))
        return
    full = Record("memory_full", macs=0.8, limit=FULL_LIMIT, batches=FULL_BATCHES)
    for network in FULL:
        full.measure({"network": network}, partial(in_fresh_process, "--full", network))
    record = Record("memory", network="resnet20", macs=0.5, samples=SAMPLES)
    for limit in LIMITS:
        for batches in BATCHES:
            name = limit or "default"
            key = {"memory limit": name, "batches": batches}
            record.measure(key, partial(in_fresh_process, "--point", str(batches), name))


def in_fresh_process(*arguments: str) -> Row:
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def measured(batches: int, limit: str | None) -> Row:
    """Peak resident memory after the imports and the model, and after `prune`, in MB."""
    torch.manual_seed(0)
    model = zoo.resnet20().eval()
    model(next(images(1)))
    before = peak()
    data = mipp.Calibration(images(batches), max_samples=None)
    result = mipp.prune(model, data, mipp.Budget(macs=0.5), memory_limit=limit, progress=False)
    disk = [note for note in result.report.notes if "temporary files" in note]
    return {
        "peak before": before,
        "peak": peak(),
        "on disk": disk[0].split(" of ")[0].removeprefix("Up to ") if disk else "nothing",
        "seconds": round(sum(result.report.seconds.values()), 1),
    }


def measure_full(network: str) -> Row:
    """Resident memory in MB before `prune`, its peak, that of one batch, and the bound on the difference."""
    model, batches = full_size(network)
    start = peak(anew=True)
    with torch.inference_mode():
        model(next(batches))
    batch = peak() - start
    before = peak(anew=True)
    data = mipp.Calibration(batches, max_samples=None)
    result = mipp.prune(model, data, mipp.Budget(macs=0.8), memory_limit=FULL_LIMIT, progress=False)
    weights = round(sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6)
    return {
        "weights": weights,
        "batch": batch,
        "before": before,
        "peak": peak(),
        "bound": round(2.5 * weights) + int(FULL_LIMIT.removesuffix("MB")) + batch,
        "seconds": round(sum(result.report.seconds.values()), 1),
    }


def full_size(network: str) -> tuple[nn.Module, Iterator[Tensor]]:
    """A network with random weights and its batches: eight images, or four pieces of 128 tokens, at a time."""
    torch.manual_seed(0)
    count = range(FULL_BATCHES + 1)
    if network == "gpt-2":
        model = CharGPT(50257, 128, 768, 12, 12).eval()
        return model, (torch.randint(50257, (4, 128)) for _ in count)
    return resnet("resnet50"), (torch.randn(8, 3, 224, 224) for _ in count)


def images(batches: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(SAMPLES, 3, 32, 32, generator=generator) for _ in range(batches))


def peak(*, anew: bool = False) -> int:
    """Largest resident memory of this process so far, in MB; counted `anew` from what it is now (on Linux)."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / 1e6)


if __name__ == "__main__":
    main()
