"""Int8 after pruning: ResNet-20, dense and at half of its MACs, in float32 and in int8, in ONNX Runtime and in torch.

    MIPP_DATA_DIR=... python -m benchmarks.handoff --weights FOLDER

Static quantisation, int8 weights by channel and uint8 activations: of ONNX Runtime (QDQ), and of torchao for the
compiler of torch, calibrated on images that the pruning was calibrated on. Accuracy is of the whole test set, latency
that of the fastest call, on one thread. Needs torchao (`pip install --no-deps torchao`) and a C++ compiler.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch._inductor.config
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, calibration, pretrained
from benchmarks.record import Record
from mipp import zoo
from mipp.export import export

BUDGET = {"macs": 0.5, "round_to": 8}
BATCHES = (1, 8)
TURNS, SECONDS, CALIBRATED = 20, 0.2, 256
ONNX, TORCH = "ONNX Runtime", "torch.compile"
Images = NDArray[np.float32]
Run = Callable[[Images], Images]
Key = tuple[str, str, str]
"""Network, type and runtime."""


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
    settings = {"network": "resnet20", "budget": BUDGET, "samples": SAMPLES, "turns": TURNS, "seconds": SECONDS}
    record = Record("handoff", **settings, onnxruntime=version("onnxruntime"), torchao=version("torchao"))
    images, test = calibration(zoo.load("cifar10", "train"), 0), zoo.load("cifar10", "test")
    dense = pretrained("resnet20", options.weights)
    result = mipp.prune(
        dense, images.split(128), mipp.Budget(**BUDGET), exclude=EXCLUDED, recover="distill", progress=False
    )
    runs: dict[Key, Run] = {}
    sizes: dict[Key, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in (("dense", dense), ("pruned", result.model)):
            path = Path(folder) / f"{name}.onnx"
            export(model, images[:2], path)
            for kind, file in (("float32", path), ("int8", quantise(path, images[:CALIBRATED].numpy()))):
                runs[name, kind, ONNX], sizes[name, kind, ONNX] = in_onnxruntime(file), file.stat().st_size
            for kind, program in (("float32", model), ("int8", quantise_in_torch(model, images[:CALIBRATED]))):
                runs[name, kind, TORCH], sizes[name, kind, TORCH] = compiled(program), bytes_of(program)
    times = milliseconds(runs, images)
    for key, run in runs.items():
        found = {"accuracy": accuracy(run, test), "bytes": sizes[key]}
        found |= {f"ms, batch {batch}": round(ms, 4) for batch, ms in times[key].items()}
        macs = (result.report.before if key[0] == "dense" else result.report.after).macs
        record.measure(dict(zip(("network", "type", "runtime"), key, strict=True)), partial(dict, macs=macs, **found))


def quantise(path: Path, images: Images) -> Path:
    """Writes the int8 form of a file beside it."""
    prepared, out = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    name = onnxruntime.InferenceSession(path).get_inputs()[0].name
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, out, Reader(name, images), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    return out


def quantise_in_torch(model: nn.Module, images: Tensor) -> nn.Module:
    """The int8 form of a model by torchao, to be compiled."""
    pt2e = import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=sizes).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = pt2e.prepare_pt2e(program, quantizer)
    with torch.no_grad():
        prepared(images)
    return pt2e.convert_pt2e(prepared)  # type: ignore[no-any-return]


def compiled(model: nn.Module) -> Run:
    """Runs a model compiled for each size of batch, its weights as constants: int8 is only fused so."""
    torch._inductor.config.freezing = True
    made = torch.compile(model, dynamic=False)

    def run(images: Images) -> Images:
        with torch.no_grad():
            found: Images = made(torch.from_numpy(images)).numpy()
        return found

    return run


def bytes_of(model: nn.Module) -> int:
    """Bytes of the weights alone; of a program, those that it reads."""
    if not isinstance(model, torch.fx.GraphModule):
        return sum(tensor.nbytes for tensor in model.state_dict().values())
    read = {str(node.target) for node in model.graph.nodes if node.op == "get_attr"}
    return sum(attrgetter(name)(model).nbytes for name in read)


def in_onnxruntime(path: Path) -> Run:
    """Runs a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> Images:
        (logits,) = session.run(None, {session.get_inputs()[0].name: images})
        found: Images = logits
        return found

    return run


def accuracy(run: Run, test: zoo.ImageData) -> float:
    """Percent of the test set."""
    hits = 0
    for part in torch.arange(len(test)).split(250):
        hits += int((run(test.normalise(part).numpy()).argmax(1) == test.labels[part].numpy()).sum())
    return round(100 * hits / len(test), 2)


def milliseconds(runs: Mapping[Key, Run], images: Tensor) -> dict[Key, dict[int, float]]:
    """Time of the fastest call, by network and batch; turns alternate, so that other work meets all alike."""
    found = {key: dict.fromkeys(BATCHES, float("inf")) for key in runs}
    for _ in range(TURNS):
        for key, run in runs.items():
            for batch in BATCHES:
                given = images[:batch].numpy()
                run(given)  # what is compiled, is compiled now
                until = time.perf_counter() + SECONDS
                while (start := time.perf_counter()) < until:
                    run(given)
                    found[key][batch] = min(found[key][batch], 1e3 * (time.perf_counter() - start))
    return found


if __name__ == "__main__":
    main()
