"""Tensors in nested containers."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn


def tensors_in(tree: Any, *, objects: bool = True) -> list[Tensor]:
    """The tensors in nested tuples, lists, mappings, dataclasses and (unless told not to) objects, in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        items: Iterable[Any] = tree.values()
    elif isinstance(tree, tuple | list):
        items = tree
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        items = (getattr(tree, f.name) for f in dataclasses.fields(tree))
    elif objects and hasattr(tree, "__dict__") and not isinstance(tree, nn.Module | type) and not callable(tree):
        items = vars(tree).values()
    else:
        return []
    return [t for item in items for t in tensors_in(item, objects=objects)]


def results_in(output: Any) -> list[Tensor]:
    """The tensors of a model's output, without what it holds in objects such as caches of keys and values."""
    return tensors_in(output, objects=False) or tensors_in(output)


def plain_in(tree: Any) -> tuple[Any, ...]:
    """The numbers, words and gaps in nested tuples, lists and mappings, in a fixed order."""
    if tree is None or isinstance(tree, bool | int | float | complex | str | bytes):
        return (tree,)
    items = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else ()
    return tuple(leaf for item in items for leaf in plain_in(item))


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
        names = [f.name for f in dataclasses.fields(tree)] if dataclasses.is_dataclass(tree) else vars(tree)
        for name in names:
            object.__setattr__(new, name, map_tensors(getattr(tree, name), function))
        return new
    return tree


def cut(tree: Any, samples: int, start: int, stop: int) -> Any:
    """`tree` for some of the samples: tensors along their first dimension, lists and arrays with an entry for each."""
    if isinstance(tree, Tensor) or (isinstance(tree, np.ndarray) and tree.ndim and len(tree) == samples):
        return tree[start:stop]
    if isinstance(tree, list) and len(tree) == samples and not tensors_in(tree):
        return tree[start:stop]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(cut(item, samples, start, stop) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(cut(item, samples, start, stop) for item in tree)
    if isinstance(tree, dict):
        new = copy.copy(tree)
        for key, item in tree.items():
            new[key] = cut(item, samples, start, stop)
        return new
    return map_tensors(tree, lambda tensor: tensor[start:stop])


def leaves(tree: Any, kind: type) -> list[Any]:
    if isinstance(tree, kind):
        return [tree]
    if isinstance(tree, tuple | list):
        return [leaf for item in tree for leaf in leaves(item, kind)]
    return []
