"""Measured speed-up against the ratio of MACs: ResNet-56 and VGG-11, pruned to widths that are multiples of 8.

    MIPP_DATA_DIR=... python -m benchmarks.latency --weights FOLDER

Eager PyTorch, torch.compile and ONNX Runtime, batches of 1 and 64, dense and pruned timed in turns on an idle machine.
VGG-11 is timed with random weights: its speed does not depend on them.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, calibration, pretrained
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.export import export

ROUND_TO = 8
BATCHES = (1, 64)
CASES = (("resnet56", {"macs": 1 / 2.11}), ("vgg11", {"params": 0.2}))
TURNS = 5
SECONDS = 2.0  # of each timing
Call = Callable[[Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pretrained .safetensors files")
    options = parser.parse_args()
    record = Record("latency", round_to=ROUND_TO, turns=TURNS, seconds=SECONDS)
    images = calibration(zoo.load("cifar10", "train"), 0)
    for network, budget in CASES:
        torch.manual_seed(0)
        dense = pretrained(network, options.weights) if network == "resnet56" else zoo.vgg11().eval()
        result = mipp.prune(
            dense, [images[:SAMPLES]], mipp.Budget(**budget, round_to=ROUND_TO),
            exclude=EXCLUDED if network == "resnet56" else (), compensate=False, progress=False,
        )  # fmt: skip
        before, after = result.report.before, result.report.after
        sizes = {"macs ratio": before.macs / after.macs, "params ratio": before.params / after.params}
        for batch in BATCHES:
            for runtime, prepare in RUNTIMES.items():
                key = {"network": network, "batch": batch, "runtime": runtime}
                record.measure(key, partial(speed_up, dense, result.model, images[:batch], prepare, sizes))


def speed_up(dense: nn.Module, small: nn.Module, images: Tensor, prepare: Callable[..., Call], sizes: Row) -> Row:
    """Milliseconds of each, the median of turns that alternate between the two."""
    with torch.inference_mode():
        timers = [
            Timer(
                "run(images)",
                globals={"run": prepare(model, images), "images": images},
                num_threads=torch.get_num_threads(),
            )
            for model in (dense, small)
        ]
        turns = [
            [timer.blocked_autorange(min_run_time=SECONDS / TURNS).median for timer in timers] for _ in range(TURNS)
        ]
    before, after = (1e3 * float(torch.tensor(times).median()) for times in zip(*turns, strict=True))
    found = {"dense ms": round(before, 3), "pruned ms": round(after, 3), "speed-up": round(before / after, 3)}
    return {**sizes, **found, "speed-up / macs ratio": round(before / after / sizes["macs ratio"], 3)}


def eager(model: nn.Module, images: Tensor) -> Call:
    return model


def compiled(model: nn.Module, images: Tensor) -> Call:
    found: Call = torch.compile(model)
    found(images)
    return found


def onnx_runtime(model: nn.Module, images: Tensor) -> Call:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(mode=False):
        path = Path(folder) / "model.onnx"
        export(model, images.clone(), path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy()})


RUNTIMES: Mapping[str, Callable[..., Call]] = {"eager": eager, "torch.compile": compiled, "ONNX Runtime": onnx_runtime}


if __name__ == "__main__":
    main()
