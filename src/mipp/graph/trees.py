"""Tensors in nested containers."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists, mappings, dataclasses and output objects, in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [t for item in tree.values() for t in tensors_in(item)]
    if isinstance(tree, tuple | list):
        return [t for item in tree for t in tensors_in(item)]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [t for f in dataclasses.fields(tree) for t in tensors_in(getattr(tree, f.name))]
    if hasattr(tree, "__dict__") and not isinstance(tree, nn.Module | type) and not callable(tree):
        return [t for item in vars(tree).values() for t in tensors_in(item)]
    return []


def results_in(output: Any) -> list[Tensor]:
    """The tensors of a model's output, without what it holds in objects such as caches of keys and values."""
    return _plain_tensors(output) or tensors_in(output)


def _plain_tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [t for item in tree.values() for t in _plain_tensors(item)]
    if isinstance(tree, tuple | list):
        return [t for item in tree for t in _plain_tensors(item)]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [t for f in dataclasses.fields(tree) for t in _plain_tensors(getattr(tree, f.name))]
    return []


def map_tensors(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    """`tree` with `function` applied to each tensor that `tensors_in` finds; containers are copied, not changed."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(item, function) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(map_tensors(item, function) for item in tree)
    if isinstance(tree, dict):
        new = copy.copy(tree)
        for key, item in tree.items():  # some dictionaries of outputs have no update()
            new[key] = map_tensors(item, function)
        return new
    if tensors_in(tree):
        new = copy.copy(tree)
        for name, item in vars(tree).items():
            object.__setattr__(new, name, map_tensors(item, function))
        return new
    return tree


def leaves(tree: Any, kind: type) -> list[Any]:
    if isinstance(tree, kind):
        return [tree]
    if isinstance(tree, tuple | list):
        return [leaf for item in tree for leaf in leaves(item, kind)]
    return []
