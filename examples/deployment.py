"""Prune to half of the MACs, export with a batch size that may change, and run the file in ONNX Runtime."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import mipp
from mipp.export import export

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
    nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip
images = [torch.randn(8, 3, 32, 32) for _ in range(8)]  # batches of the size that you deploy
budget = mipp.Budget(macs=0.5, round_to=8, runtime="onnxruntime")  # or latency_ms=0.6, measured there
result = mipp.prune(model, images, budget, progress=False)
before, after = result.report.before, result.report.after
print(f"{before.params} -> {after.params} parameters, {before.latency_ms:.2f} -> {after.latency_ms:.2f} ms")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "small.onnx"
    print(f"largest difference to the model: {export(result.model, images[0], path):.1g}")
    session = onnxruntime.InferenceSession(path)
    batch = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: batch})
print("classes of three images:", logits.argmax(1))
