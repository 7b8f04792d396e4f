"""The time of a whole call by kind of work, in passes: convolutions, linear algebra, and the rest.

    MIPP_DATA_DIR=... python -m benchmarks.effort --weights FOLDER [--network NAME]

The calls are those of `benchmarks.passes`. Linear algebra is matrix products, factorisations and solutions; at the full
rate its operations would take what they take in one product of two large square matrices of the same type. The rest is
everything else, and what Python takes: the difference from the time of a call that nobody watches. Seconds are those of
the processor.
"""

import argparse
import time
from collections import defaultdict
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import mipp
from benchmarks.passes import JOBS, Job, pass_seconds
from benchmarks.record import Record, Row
from mipp.runtime.onednn import linear, pays

NETWORKS = ("demo", "resnet20", "resnet56", "mobilenetv2", "vgg11", "resnet18 at 224")
SIDE = 2048
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="all of them by default")
    options = parser.parse_args()
    record = Record("effort", side=SIDE)
    for network in options.network or NETWORKS:
        record.measure({"network": network}, partial(effort, network, options.weights))


def effort(network: str, weights: Path) -> Row:
    """Passes of one call by kind of work, and the rate of its linear algebra."""
    job = JOBS[network](weights)
    prune(job)  # what is slow only once
    rates = {dtype: product_rate(dtype) for dtype in (torch.float32, torch.float64)}
    one_pass = pass_seconds(job)
    with Watch() as forward, torch.inference_mode():
        for batch in job.batches:
            job.model(batch)
    start = time.process_time()
    prune(job)
    whole = time.process_time() - start
    with Watch() as seen:
        prune(job)
    one_pass = min(one_pass, pass_seconds(job))
    ideal = sum(seen.operations[dtype] / rate for dtype, rate in rates.items())
    algebra, convolutions = sum(seen.seconds[dtype] for dtype in rates), seen.seconds["convolution"]
    return {
        "weights": job.weights,
        "one pass, seconds": round(one_pass, 3),
        "passes": round(whole / one_pass, 2),
        "convolutions, passes": round(convolutions / one_pass, 2),
        "convolutions, passes by count": round(seen.operations["convolution"] / forward.operations["convolution"], 2),
        "linear algebra, passes": round(algebra / one_pass, 2),
        "linear algebra at the full rate, passes": round(ideal / one_pass, 2),
        "linear algebra, share in float64": round(seen.seconds[torch.float64] / algebra, 2),
        "the rest, passes": round((whole - algebra - convolutions) / one_pass, 2),
        "product, GFLOP/s": {str(dtype).removeprefix("torch."): round(r / 1e9, 1) for dtype, r in rates.items()},
    }


def prune(job: Job) -> None:
    """The call that is measured."""
    mipp.prune(job.model, job.batches, job.budget, exclude=job.exclude, effort=job.effort, progress=False)


class Watch(TorchDispatchMode):
    """Operations and seconds of convolutions, and of linear algebra by the type of its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: dict[Any, float] = defaultdict(float)
        self.seconds: dict[Any, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # in inference mode, composite ops come whole
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        start = time.process_time()
        out = func(*args, **(kwargs or {}))
        seconds = time.process_time() - start
        name = func.overloadpacket.__name__.rstrip("_")
        tensors = [a for a in args if isinstance(a, Tensor)]
        if "convolution" in name:
            kind: Any = "convolution"
            operations = flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        else:
            operations = linear_algebra(name, [tuple(t.shape) for t in tensors])
            kind = tensors[0].dtype if operations else None
        if operations:
            self.operations[kind] += operations
            self.seconds[kind] += seconds
        return out


def linear_algebra(name: str, shapes: list[tuple[int, ...]]) -> float:
    """Operations of an op on dense matrices, to leading order; 0 if it is none.

    Source: Golub & Van Loan, Matrix Computations, 4th edition, sections 1.1, 3.1, 3.2, 4.2 and 8.3.
    """
    if name == "_linear_pointwise":  # a product with a transpose, by oneDNN
        left, right = shapes[:2]
        return 2.0 * prod(left) * right[0]
    if name in PRODUCTS:
        left, right = shapes[-2:]
        return 2.0 * prod(left) * right[-1]
    if name in ("linalg_cholesky_ex", "cholesky_inverse", "_linalg_eigh"):
        per = {"linalg_cholesky_ex": 1 / 3, "cholesky_inverse": 2 / 3, "_linalg_eigh": 9.0}[name]
        return per * prod(shapes[0]) * shapes[0][-1]
    if name in ("_linalg_solve_ex", "linalg_solve_triangular"):
        (*_, n), columns = shapes[0], prod(shapes[1])
        return columns * n if "triangular" in name else 2 / 3 * prod(shapes[0]) * n + 2 * columns * n
    return 0.0


def product_rate(dtype: torch.dtype) -> float:
    """Operations per second of one product, the best of five, by the faster of torch's BLAS and oneDNN."""
    a, b = torch.randn(2, SIDE, SIDE, dtype=dtype)
    times = []
    for multiply in (torch.mm, linear)[: 2 if pays(a, b) else 1]:
        for _ in range(5):
            start = time.process_time()
            multiply(a, b)
            times.append(time.process_time() - start)
    return 2 * SIDE**3 / min(times)


if __name__ == "__main__":
    main()
