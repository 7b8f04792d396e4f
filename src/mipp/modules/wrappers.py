"""The model inside a wrapper, and what an object is that is no model."""

import sys
from typing import Any

import torch
from torch import nn

from mipp.errors import UnsupportedModelError, quote


def unwrap(model: Any) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel or torch.compile.

    Raises:
        UnsupportedModelError: It is no `nn.Module`, or one whose weights or code cannot be reached.
    """
    while True:
        inner = model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else None
        inner = inner or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"The model is a {type(model).__name__}; its code is fixed in the script. Prune the nn.Module it was made "
            "from, and script the result."
        )
    if isinstance(model, nn.Module) and _is_sharded(model):
        raise UnsupportedModelError(
            f"The parameters of the {type(model).__name__} are sharded over processes (DTensor, as fully_shard makes "
            "them). Prune the model before it is sharded, and call fully_shard on result.model."
        )
    if not isinstance(model, nn.Module):
        hint = "; call it to make one" if isinstance(model, type) and issubclass(model, nn.Module) else ""
        raise UnsupportedModelError(f"The model is {article(model)}; expected an nn.Module{hint}.")
    return model


def _is_sharded(model: nn.Module) -> bool:
    """True if parameters are DTensors; whoever made them has imported their class, which takes two seconds."""
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and any(isinstance(p, tensor.DTensor) for p in model.parameters())


def article(value: object) -> str:
    """An object in words, for messages: "a Tensor", "the class Linear"."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return (
        f"{quote(value)} (a {type(value).__name__})"
        if isinstance(value, str | int | float)
        else f"a {type(value).__name__}"
    )
