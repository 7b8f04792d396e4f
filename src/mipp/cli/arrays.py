"""Arrays in files: .npy, with labels in a second one, and .safetensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mipp
from mipp.cli.console import first_line
from mipp.cli.errors import unknown
from mipp.errors import CalibrationError, clip
from mipp.runtime.typed import FormError
from mipp.storage.tensor_files import read_tensors

_BATCH = 128


@dataclass(frozen=True)
class Arrays:
    """Inputs, and their labels if there are any, shape [samples, ...] and [samples]."""

    inputs: Tensor
    labels: Tensor | None

    @property
    def has_classes(self) -> bool:
        """True for labels that are whole numbers."""
        return self.labels is not None and not self.labels.is_floating_point()

    @property
    def look_raw(self) -> bool:
        """True for images, none of whose values is negative."""
        return self.inputs.ndim == 4 and self.inputs.is_floating_point() and bool((self.inputs >= 0).all())

    def batches(self) -> Iterator[Any]:
        """Batches in the order of the file."""
        for start in range(0, len(self.inputs) if self.inputs.ndim else 1, _BATCH):
            part = self.inputs[start : start + _BATCH] if self.inputs.ndim else self.inputs
            yield part if self.labels is None else (part, self.labels[start : start + _BATCH])

    def split(self, seed: int) -> tuple["Arrays", "Arrays"]:
        """A fifth of the samples, drawn, and the others."""
        assert self.labels is not None
        order = torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(seed))
        parts = order.split([max(1, len(order) // 5), len(order) - max(1, len(order) // 5)])
        first, second = (Arrays(self.inputs[part.sort().values], self.labels[part.sort().values]) for part in parts)
        return first, second


def open_arrays(source: str, labels: Path | None, like: nn.Module) -> Arrays:
    """The arrays in a file, floats in the type of the model.

    Raises:
        CalibrationError: The file cannot be read, or holds what no network takes.
    """
    inputs, own = _from_file(source)
    if inputs.dtype in (torch.uint8, torch.bool):
        raise CalibrationError(
            f"{source} holds {str(inputs.dtype).removeprefix('torch.')}; expected floats, [samples, channels, height, "
            "width] for images, normalised as the model was trained: (pixels / 255 - mean) / std."
        )
    if inputs.is_floating_point():
        dtypes = [p.dtype for p in like.parameters() if p.is_floating_point()]
        inputs = inputs.to(dtypes[0] if dtypes else inputs.dtype)
    if labels is not None:
        own = _load_array(labels)
    if own is not None and (not own.ndim or len(own) != len(inputs)):
        raise CalibrationError(
            f"{labels or source} has labels of shape {list(own.shape)}; expected one for each of the {len(inputs)} "
            "samples."
        )
    return Arrays(inputs, own)


def _from_file(source: str) -> tuple[Tensor, Tensor | None]:
    path = Path(source)
    if path.suffix not in (".safetensors", ".npy"):
        if path.suffix or len(path.parts) > 1 or path.exists():
            raise CalibrationError(
                f"--data is '{clip(source)}'; expected {', '.join(mipp.zoo.DATA_SETS)}, a .safetensors or a .npy file."
            )
        raise unknown("data set", source, mipp.zoo.DATA_SETS)
    if path.suffix == ".npy":
        return _load_array(path), None
    try:
        tensors = read_tensors(path)
    except FileNotFoundError as error:
        raise CalibrationError(f"There is no file {clip(str(path))} to read calibration data from.") from error
    except (OSError, FormError) as error:
        raise CalibrationError(f"{clip(str(path))} cannot be read as {path.suffix} ({first_line(error)}).") from error
    if "input" not in tensors:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise CalibrationError(
            f"{path} holds {found}; expected a tensor 'input', and 'labels' if the method needs them."
        )
    return tensors["input"], tensors.get("labels")


def _load_array(path: Path) -> Tensor:
    """The array in a .npy file; what its header announces is made only where the file is as long."""
    try:
        return torch.from_numpy(np.array(np.load(path, mmap_mode="r", allow_pickle=False)))
    except FileNotFoundError as error:
        raise CalibrationError(f"There is no file {clip(str(path))} to read calibration data from.") from error
    except Exception as error:  # whatever NumPy says about a damaged header
        raise CalibrationError(f"{clip(str(path))} cannot be read as {path.suffix} ({first_line(error)}).") from error
