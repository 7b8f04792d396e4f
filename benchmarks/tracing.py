"""Time to trace and group networks at full size, and how it grows with depth; language models on the meta device.

python -m benchmarks.tracing
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.record import Record, Row
from benchmarks.zoo.branches import DenseBlock
from mipp.data.calibration import as_call
from mipp.graph.builder import Draft
from mipp.zoo.resnets import resnet50

BLOCKS = {"DenseNet-121": (6, 12, 24, 16), "DenseNet-169": (6, 12, 32, 32), "DenseNet-201": (6, 12, 48, 32)}
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
Made = tuple[nn.Module, Any]


def image(device: str = "cpu") -> Tensor:
    return torch.zeros(1, 3, 224, 224, device=device)


def densenet(blocks: tuple[int, ...], growth: int = 32) -> nn.Module:
    width = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), *norm(width), nn.MaxPool2d(3, 2, 1)]
    for i, number in enumerate(blocks):
        layers.append(DenseBlock(number, width, growth, widening=4))
        width += number * growth
        layers += norm(width)
        if i < len(blocks) - 1:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


def norm(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def llama(layers: int) -> Made:
    with torch.device("meta"):
        config = transformers.LlamaConfig(num_hidden_layers=layers, **LLAMA_7B)
        return transformers.LlamaForCausalLM(config), {"input_ids": torch.zeros(1, 16, dtype=torch.long)}


def vit() -> Made:
    return transformers.ViTForImageClassification(transformers.ViTConfig()), {"pixel_values": image()}


NETWORKS: dict[str, Callable[[], Made]] = {
    "ResNet-50": lambda: (resnet50(1000), image()),
    **{name: lambda blocks=blocks: (densenet(blocks), image()) for name, blocks in BLOCKS.items()},
    "ViT-B/16": vit,
    **{f"Llama-7B shape, {n} layers, meta": lambda n=n: llama(n) for n in (8, 16, 32)},
}


def main() -> None:
    """Writes benchmarks/results/tracing.json; every network is measured in a process of its own."""
    if len(sys.argv) > 1:
        print(json.dumps(measured(NETWORKS[sys.argv[1]])))
        return
    record = Record("tracing", batch=1)
    for name in NETWORKS:
        record.measure({"network": name}, lambda n=name: in_process(n))


def in_process(name: str) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tracing", name], capture_output=True, text=True, check=True
    )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def measured(make: Callable[[], Made]) -> Row:
    model, inputs = make()
    before = time.perf_counter()
    draft = Draft(model.eval(), as_call(inputs))
    traced = time.perf_counter()
    graph = draft.graph()
    return {
        "ops": len(graph.program.ops),
        "groups": len(graph.groups),
        "nodes": graph.num_nodes,
        "trace and rules, s": round(traced - before, 2),
        "group, s": round(time.perf_counter() - traced, 2),
    }


if __name__ == "__main__":
    main()
