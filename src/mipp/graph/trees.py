"""Tensors in nested containers."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def tensors_in(tree: Any, *, objects: bool = True, _around: frozenset[int] = frozenset()) -> list[Tensor]:
    """The tensors in nested tuples, lists, mappings, dataclasses and (unless told not to) objects, in a fixed order.

    What holds itself is looked into once.
    """
    if isinstance(tree, Tensor):
        return [tree]
    if id(tree) in _around:
        return []
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
    return [t for item in items for t in tensors_in(item, objects=objects, _around=_around | {id(tree)})]


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
    return _map(tree, lambda item: isinstance(item, Tensor), function)


def cut(tree: Any, samples: int, chosen: slice | NDArray[np.int64]) -> Any:
    """`tree` for some of the samples: tensors along their first dimension, lists and arrays with an entry for each."""

    def has_samples(item: Any) -> bool:
        if isinstance(item, np.ndarray):
            return item.ndim > 0 and len(item) == samples
        return isinstance(item, Tensor) or (isinstance(item, list) and len(item) == samples and not tensors_in(item))

    def take(item: Any) -> Any:
        if isinstance(chosen, slice) or isinstance(item, np.ndarray):
            return item[chosen]
        return [item[i] for i in chosen] if isinstance(item, list) else item[torch.from_numpy(chosen).to(item.device)]

    return _map(tree, has_samples, take)


def _map(
    tree: Any, chosen: Callable[[Any], bool], function: Callable[[Any], Any], made: dict[int, Any] | None = None
) -> Any:
    """`tree` with `function` applied to what is chosen; objects that hold no tensors stay what they are.

    `made` are the copies of objects and dictionaries so far, by `id`: one may hold itself.
    """
    made = {} if made is None else made
    if chosen(tree):
        return function(tree)
    if id(tree) in made:
        return made[id(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(item, chosen, function, made) for item in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_map(item, chosen, function, made) for item in tree)
    if isinstance(tree, dict):
        new = made[id(tree)] = copy.copy(tree)
        for key, item in tree.items():  # some dictionaries of outputs have no update()
            new[key] = _map(item, chosen, function, made)
        return new
    if not isinstance(tree, Tensor) and tensors_in(tree):
        new = made[id(tree)] = copy.copy(tree)
        names = [f.name for f in dataclasses.fields(tree)] if dataclasses.is_dataclass(tree) else vars(tree)
        for name in names:
            object.__setattr__(new, name, _map(getattr(tree, name), chosen, function, made))
        return new
    return tree


def leaves(tree: Any, kind: type) -> list[Any]:
    """The entries of a type in nested tuples and lists, in order."""
    found: list[Any] = []
    _gather(tree, kind, found)
    return found


def _gather(tree: Any, kind: type, found: list[Any]) -> None:
    if isinstance(tree, kind):
        found.append(tree)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            _gather(item, kind, found)
