"""Peak memory of one `prune` call as the calibration data grow, each point in a fresh process.

    python -m benchmarks.memory

Batches are made one at a time, so that nobody but the library holds them.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import mipp
from benchmarks.record import Record, Row
from mipp import zoo

BATCHES = (4, 40, 400)
SAMPLES = 32
LIMITS = ("100MB", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", nargs=2, metavar=("BATCHES", "LIMIT"), help="measure one point in this process")
    point = parser.parse_args().point
    if point:
        print(json.dumps(measured(int(point[0]), None if point[1] == "default" else point[1])))
        return
    record = Record("memory", network="resnet20", macs=0.5, samples=SAMPLES)
    for limit in LIMITS:
        for batches in BATCHES:
            name = limit or "default"
            record.measure({"memory limit": name, "batches": batches}, partial(in_fresh_process, batches, name))


def in_fresh_process(batches: int, limit: str) -> Row:
    command = [sys.executable, "-m", "benchmarks.memory", "--point", str(batches), limit]
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


def images(batches: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(SAMPLES, 3, 32, 32, generator=generator) for _ in range(batches))


def peak() -> int:
    """Largest resident memory of this process so far, in MB (Linux counts in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


if __name__ == "__main__":
    main()
