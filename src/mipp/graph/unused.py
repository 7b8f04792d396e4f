"""Layers and parameters that a pass leaves out, and whether there is a sign that other passes read them."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from torch._ops import OpOverload

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.nodes import Frozen, owner
from mipp.graph.trace import OpStream, call_op, forward
from mipp.graph.trees import tensors_in
from mipp.modules.copies import canonical_names, working_copy

Unused = dict[str, list[str]]
"""Names of tensors by the module they make up, or by their own name where the module has others that are read."""


def find_unused(model: nn.Module, seen: Collection[str]) -> Unused:
    """The parameters of more than one number that are not among the tensors seen, and norms of which nothing is."""
    names = canonical_names(model)
    found: Unused = {}
    for module in model.modules():
        own = [names[id(t)][0] for t in module.parameters(recurse=False) if t.numel() > 1]
        if isinstance(module, nn.modules.batchnorm._NormBase):
            own = own or [names[id(t)][0] for t in module.buffers(recurse=False) if t.numel() > 1]
        for name in own:
            if name not in seen:
                found.setdefault(_unused_holder(model, name, names, seen), []).append(name)
    return found


def _unused_holder(model: nn.Module, name: str, names: Mapping[int, tuple[str, str]], seen: Collection[str]) -> str:
    """The module that holds a tensor, or the tensor itself where the module holds others that are read."""
    path = owner(name)
    if path == name:
        return name
    module = model.get_submodule(path)
    return name if any(names[id(t)][0] in seen for t in (*module.parameters(), *module.buffers())) else path


def read_in_training(model: nn.Module, call: Call, unused: Unused) -> list[str]:
    """Those of which an op reads a tensor in train mode, as auxiliary heads are; all where that cannot be told."""
    copied = working_copy(model)
    copied.train()
    stream = _Reads()
    try:
        with stream:
            forward(copied, call)
    except UnsupportedModelError:  # one sample is too few for a batch norm, say
        return list(unused)
    read = {name for identity, (name, _) in canonical_names(copied).items() if identity in stream.read}
    return [key for key, tensors in unused.items() if not read.isdisjoint(tensors)]


def list_unused(model: nn.Module, unused: Unused) -> list[Frozen]:
    """The unused parameters as frozen layers; of a parameter by itself the longest dimension counts."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return [
        Frozen(key, max(tensors[key].shape), "no op reads it", "", "")
        if names == [key]
        else Frozen(key, len(tensors[names[0]]), "did not run", "", "")
        for key, names in unused.items()
    ]


class _Reads(OpStream):
    """Notes which tensors the ops of a pass read, by `id`."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def stays_whole(self, func: OpOverload) -> bool:
        return True

    def on_op(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.read.update(id(tensor) for tensor in tensors_in((args, kwargs)))
        return call_op(func, args, kwargs)
