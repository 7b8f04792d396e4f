"""A made-up data set of detection, and torchvision's operators where its binary does not fit this torch."""

import importlib
from pathlib import Path

import numpy as np
import torch
from benchmarks.libraries import declare_operators
from torch import Tensor


def mend_torchvision() -> None:
    """Declares operators that torchvision's code imports, where its binary does not fit this torch, and runs nms."""
    if declare_operators():
        vars(importlib.import_module("torchvision.ops"))["nms"] = suppress


def suppress(boxes: Tensor, scores: Tensor, limit: float) -> Tensor:
    """Non-maximum suppression: the indices of boxes that overlap no better one by more than the limit."""
    order, keep = scores.argsort(descending=True).tolist(), []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while order:
        best, rest = order[0], torch.tensor(order[1:], dtype=torch.long)
        keep.append(best)
        low, high = torch.maximum(boxes[best, :2], boxes[rest, :2]), torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp_min(0).prod(1)
        order = rest[shared <= limit * (areas[best] + areas[rest] - shared)].tolist()
    return torch.tensor(keep, dtype=torch.long)


def make_images(folder: Path, number: int = 8, side: int = 64) -> Path:
    """Writes images with a bright or a dark rectangle each, their labels, and the yaml that names them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(number):
        pixels = rng.integers(80, 160, (side, side, 3)).astype(np.uint8)
        size, label = rng.integers(12, 30, 2), int(rng.integers(2))
        x, y = rng.integers(0, side - size)
        pixels[y : y + size[1], x : x + size[0]] = 250 * label
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        box = np.array([x + size[0] / 2, y + size[1] / 2, *size]) / side
        (folder / "labels" / f"{index}.txt").write_text(f"{label} " + " ".join(f"{v:.4f}" for v in box))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [dark, bright]\n")
    return folder / "data.yaml"
