"""Int8 after pruning: ResNet-20, dense and at half of its MACs, in float32 and in int8 in ONNX Runtime.

    MIPP_DATA_DIR=... python -m benchmarks.handoff --weights FOLDER

Static quantisation of ONNX Runtime (QDQ, int8 weights by channel, uint8 activations), calibrated on the images that the
pruning was calibrated on. Accuracy is of the whole test set, latency that of the fastest call, on one thread.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, calibration, pretrained
from benchmarks.record import Record, Row
from mipp import zoo
from mipp.export import export

BUDGET = {"macs": 0.5, "round_to": 8}
BATCHES = (1, 8)
TURNS, SECONDS = 20, 0.2
Images = NDArray[np.float32]


class Reader(CalibrationDataReader):  # type: ignore[misc] # untyped
    """Calibration images one by one, as the quantisation asks for them."""

    def __init__(self, name: str, images: Images) -> None:
        self._inputs: Iterator[dict[str, Images]] = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._inputs, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pretrained .safetensors files")
    options = parser.parse_args()
    record = Record("handoff", network="resnet20", budget=BUDGET, samples=SAMPLES, turns=TURNS, seconds=SECONDS)
    images, test = calibration(zoo.load("cifar10", "train"), 0), zoo.load("cifar10", "test")
    dense = pretrained("resnet20", options.weights)
    result = mipp.prune(
        dense, images.split(128), mipp.Budget(**BUDGET), exclude=EXCLUDED, recover="distill", progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, model in (("dense", dense), ("pruned", result.model)):
            files[name, "float32"] = Path(folder) / f"{name}.onnx"
            export(model, images[:2], files[name, "float32"])
            files[name, "int8"] = quantise(files[name, "float32"], images[:256].numpy())
        sessions = {key: session(path) for key, path in files.items()}
        times = milliseconds(sessions, images)
        for (name, kind), path in files.items():
            found = {"accuracy": accuracy(sessions[name, kind], test), "bytes": path.stat().st_size}
            found |= {f"ms, batch {batch}": round(ms, 4) for batch, ms in times[name, kind].items()}
            report = result.report.before if name == "dense" else result.report.after
            record.measure({"network": name, "type": kind}, lambda f=found, m=report.macs: {"macs": m, **f})


def quantise(path: Path, images: Images) -> Path:
    """Writes the int8 form of a file beside it."""
    prepared, out = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    name = onnxruntime.InferenceSession(path).get_inputs()[0].name
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, out, Reader(name, images), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    return out


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session: Any, images: Images) -> Images:
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    found: Images = logits
    return found


def accuracy(session: Any, test: zoo.ImageData) -> float:
    """Percent of the test set."""
    hits = 0
    for part in torch.arange(len(test)).split(250):
        hits += int((run(session, test.normalise(part).numpy()).argmax(1) == test.labels[part].numpy()).sum())
    return round(100 * hits / len(test), 2)


def milliseconds(sessions: dict[Any, Any], images: torch.Tensor) -> dict[Any, Row]:
    """Time of the fastest call, by file and batch; turns alternate, so that other work meets all alike."""
    found: dict[Any, Row] = {key: dict.fromkeys(BATCHES, np.inf) for key in sessions}
    for _ in range(TURNS):
        for key, one in sessions.items():
            for batch in BATCHES:
                given, until = images[:batch].numpy(), time.perf_counter() + SECONDS
                while (start := time.perf_counter()) < until:
                    run(one, given)
                    found[key][batch] = min(found[key][batch], 1e3 * (time.perf_counter() - start))
    return found


if __name__ == "__main__":
    main()
