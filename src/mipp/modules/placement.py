"""Devices: that of a model, and that on which it is pruned."""

import torch
from torch import nn

from mipp.errors import MippError, quote
from mipp.modules.copies import full_copy, move


def device_of(model: nn.Module) -> torch.device | None:
    """The device of a model; None for one without tensors."""
    return next((t.device for t in [*model.parameters(), *model.buffers()]), None)


def place_model(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """The model where it can be worked on: itself if it is there, else a copy.

    Args:
        model: Stays where it is.
        device: Where to work; by default where the model is. If float64 is not computed there, the CPU.

    Raises:
        MippError: There is no such device.
    """
    try:
        home = device_of(model)
        wanted = home if device is None else torch.device(device)
        if wanted is not None and not _has_float64(wanted):
            wanted = torch.device("cpu")
        if wanted is None or wanted == home:
            return model
        copied = full_copy(model)
        move(copied, wanted)
        return copied
    except (RuntimeError, AssertionError, NotImplementedError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise MippError(f"device={quote(str(device))} cannot be used: {reason}") from error


def _has_float64(device: torch.device) -> bool:
    """True if the device has float64, which Apple's GPUs lack."""
    torch.empty(0, device=device)
    try:
        torch.zeros((), dtype=torch.float64, device=device).add(1)
    except (TypeError, RuntimeError):
        return False
    return True
