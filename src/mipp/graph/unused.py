"""Layers and parameters that a pass leaves out, and whether there is a sign that other passes read them."""

from collections.abc import Collection, Mapping

from torch import nn

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.nodes import Frozen, owner
from mipp.graph.program import Program
from mipp.graph.trace import trace
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


def trace_training(model: nn.Module, call: Call) -> Program | None:
    """A pass in train mode, which reads what auxiliary heads and mask tokens hold; None where it raises."""
    copied = working_copy(model)
    copied.train()
    try:
        return trace(copied, call)
    except UnsupportedModelError:  # one sample is too few for a batch norm, say
        return None


def list_unused(model: nn.Module, unused: Unused) -> list[Frozen]:
    """The unused parameters as frozen layers; of a parameter by itself the longest dimension counts."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return [
        Frozen(key, max(tensors[key].shape), "no op reads it", "", "")
        if names == [key]
        else Frozen(key, len(tensors[names[0]]), "did not run", "", "")
        for key, names in unused.items()
    ]
