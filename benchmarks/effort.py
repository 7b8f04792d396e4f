"""The work of the closed-form call: forward passes over the calibration images, and linear algebra.

    MIPP_DATA_DIR=... python -m benchmarks.effort --weights FOLDER

Passes are counted in operations of convolutions, relative to those of the dense network on the same images. Linear
algebra is matrix products, factorisations and solutions; its rate is the time its operations would take at the speed of
one product of two large square matrices of the same type, over the time they take.
"""

import argparse
import time
from collections import defaultdict
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, WEIGHTS, calibration, forward_seconds
from benchmarks.cifar_networks import dense, path_of
from benchmarks.record import Record, Row
from mipp import zoo

CASES = (("resnet56", {"macs": 1 / 2.11}), ("resnet20", {"macs": 0.5}), ("vgg11", {"params": 0.2}))
SIDE = 2048
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    options = parser.parse_args()
    record = Record("effort", samples=SAMPLES, side=SIDE)
    images = calibration(zoo.load("cifar10", "train"), 0)
    for network, budget in CASES:
        if path_of(options.weights, network).exists():
            key = {"network": network, **{k: round(v, 4) for k, v in budget.items()}}
            exclude = EXCLUDED if network in WEIGHTS else ()
            once = partial(mipp.prune, budget=mipp.Budget(**budget), exclude=exclude, progress=False)  # type: ignore[arg-type]
            record.measure(key, partial(effort, dense(network, options.weights), images, once))


def effort(model: nn.Module, images: Tensor, prune: Any) -> Row:
    """Passes of one call, and the seconds and rate of its linear algebra."""
    batches = list(images.split(128))
    rates = {dtype: product_rate(dtype) for dtype in (torch.float32, torch.float64)}
    one_pass = forward_seconds(model, images)
    with Watch() as forward, torch.inference_mode():
        for batch in batches:
            model(batch)
    start = time.perf_counter()
    with Watch() as seen:
        prune(model, batches)
    whole = time.perf_counter() - start
    ideal = sum(seen.operations[dtype] / rate for dtype, rate in rates.items())
    seconds = sum(seen.seconds[dtype] for dtype in rates)
    return {
        "passes": round(seen.operations["convolution"] / forward.operations["convolution"], 2),
        "seconds": round(whole, 2),
        "one pass, seconds": round(one_pass, 3),
        "convolutions, seconds": round(seen.seconds["convolution"], 2),
        "linear algebra, seconds": round(seconds, 2),
        "linear algebra, share in float64": round(seen.seconds[torch.float64] / seconds, 2),
        "linear algebra, rate": round(ideal / seconds, 3),
        "product, GFLOP/s": {str(dtype).removeprefix("torch."): round(r / 1e9, 1) for dtype, r in rates.items()},
    }


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
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - start
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
    """Operations per second of one product, the best of five."""
    a, b = torch.randn(2, SIDE, SIDE, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(times)


if __name__ == "__main__":
    main()
