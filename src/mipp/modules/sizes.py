"""Integers that modules hold, by path: attributes, entries of tuples and dicts, and those of objects with settings.

A module that says itself what its copies are made of (`__getstate__`) holds what it says, and is made anew from that.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_LONGEST = 9  # digits of a place in a tuple


def attributes_of(module: nn.Module) -> Mapping[str, Any]:
    """The attributes of a module by name; where it is made anew from others, these."""
    made_of = _state_of(module)
    return vars(module) if made_of is None else made_of


def numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Integers among values, and among the entries of tuples, lists and dicts there, each with its path."""
    for name, value in values.items():
        if type(value) is int:
            yield name, value
        else:
            yield from ((f"{name}.{place}", n) for place, n in _entries(value) if type(n) is int)


def other_sizes(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Integers, and tuples of them, that are others than those of the same name among other values."""

    def is_size(value: Any) -> bool:
        return type(value) is int or (isinstance(value, tuple) and all(type(v) is int for v in value))

    return {k: v for k, v in own.items() if is_size(v) and is_size(other.get(k)) and other[k] != v}


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) in (tuple, list, torch.Size):
        yield from ((str(i), entry) for i, entry in enumerate(value))
    elif type(value) is dict:
        yield from ((key, entry) for key, entry in value.items() if isinstance(key, str) and "." not in key)


def size_at(module: nn.Module, path: str) -> Any:
    """The value that a module holds at a path such as "heads", "shape.0" or "config.heads", None if it holds none."""
    made_of = _state_of(module)
    value: Any = module if made_of is None else made_of
    for place in path.split("."):
        value = _part(value, place)
    return value


def _part(value: Any, place: str) -> Any:
    if type(value) in (tuple, list, torch.Size):
        number = int(place) if place.isdecimal() and len(place) <= _LONGEST else len(value)
        return value[number] if number < len(value) else None
    return value.get(place) if type(value) is dict else getattr(value, place, None)


def set_size(module: nn.Module, path: str, size: int) -> None:
    """Sets the size that a module holds at a path. What is on the way is copied: others that hold it keep theirs."""
    name, *places = path.split(".")
    made_of = _state_of(module)
    if made_of is None:
        setattr(module, name, _replace(getattr(module, name), places, size))
        return
    training = module.training
    module.__setstate__({**made_of, name: _replace(made_of[name], places, size)})
    module.training = training


def take_size(module: nn.Module, other: nn.Module, path: str) -> None:
    """Gives a module what another of its kind holds at the start of a path, with all that stands behind it."""
    name, made_of = path.partition(".")[0], _state_of(other)
    if made_of is not None:
        training = module.training
        module.__setstate__(dict(made_of))
        module.training = training
    elif name in vars(other):
        module.__dict__[name] = vars(other)[name]


def _replace(value: Any, places: list[str], size: int) -> Any:
    """A copy of a value with another size at its places."""
    if not places:
        return size
    first, *rest = places
    new = _replace(_part(value, first), rest, size)
    if type(value) in (tuple, list, torch.Size):
        return type(value)(new if i == int(first) else entry for i, entry in enumerate(value))
    if type(value) is dict:
        return {**value, first: new}
    copied = copy.copy(value)
    try:
        setattr(copied, first, new)
    except AttributeError:  # frozen
        object.__setattr__(copied, first, new)
    return copied


def _state_of(module: nn.Module) -> dict[str, Any] | None:
    """The state that the copies of a module are made of, if its class says so and it does not hold all its parts."""
    state = getattr(type(module), "__getstate__", None)
    if state is getattr(nn.Module, "__getstate__", None):
        return None
    try:
        found = module.__getstate__()
    except Exception:  # some refuse to be copied so
        return None
    return found if isinstance(found, dict) and "_parameters" not in found else None
