"""Hashes of tensors and functions, by which a checkpoint tells its own run from others."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial, partialmethod
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_GROWING = (list, dict, set)
"""What may change as a function runs, such as a list of losses, is no part of it where it holds it directly."""
_PLAIN = (str, bytes, bool, int, float, complex, Enum, np.generic, torch.dtype, torch.device)


def fingerprint(tensors: Iterable[Tensor], *texts: str) -> str:
    """SHA-256 of tensors and texts, as hex."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_function(function: Any) -> str:
    """SHA-256 of what a function does, as far as can be told: its code, and the numbers and tensors that it holds."""
    description = _Description()
    description.add(function)
    owner = getattr(function, "__self__", function)
    if not isinstance(owner, FunctionType | ModuleType | nn.Module | partial | type | None):
        description.look_into(owner)
    return description.digest.hexdigest()


def format_option(option: Any) -> str:
    """An option as text: its `repr`, or a hash of what it is where that tells its place in memory."""
    return hash_function(option) if type(option).__repr__.__qualname__ == "object.__repr__" else repr(option)


def numbers_of(model: nn.Module) -> str:
    """The numbers and words that modules hold besides their tensors, such as a temperature; modes are left out."""
    held = (
        (path, name, value)
        for path, module in model.named_modules()
        for name, value in sorted(vars(module).items())
        if name != "training" and isinstance(value, _PLAIN)
    )
    return repr(list(held))


class _Description:
    """A hash that grows by everything that makes a function what it is; each thing is looked at once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # with the things themselves, so that no id is used twice

    def add(self, thing: Any) -> None:
        if thing is None or isinstance(thing, _PLAIN):
            self._write(repr(thing))
        elif isinstance(thing, Tensor | np.ndarray):
            self._write(_of_values(thing))
        elif id(thing) in self._seen:
            self._write(f"again {self._seen[id(thing)][0]}")
        else:
            self._seen[id(thing)] = len(self._seen), thing
            self._write(getattr(thing, "__qualname__", type(thing).__qualname__))
            for part in _parts(thing):
                self.add(part)
            self._write("end")

    def look_into(self, owner: Any) -> None:
        """The code and the attributes of an object that is called, or whose method is."""
        slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
        held = {**{name: getattr(owner, name, None) for name in slots}, **getattr(owner, "__dict__", {})}
        self.add(type(owner).__call__ if callable(owner) else None)
        for name, value in sorted(held.items()):
            if not isinstance(value, _GROWING):
                self._write(name)
                self.add(value)

    def _write(self, text: str) -> None:
        self.digest.update(text.encode() + b"\0")


def _of_values(values: Tensor | NDArray[Any]) -> str:
    if isinstance(values, np.ndarray):
        return repr(values.tolist()) if values.dtype == object else f"{values.dtype}{values.shape}{values.tobytes()!r}"
    if values.is_meta or values.layout is not torch.strided:
        return f"{tuple(values.shape)}{values.dtype}{values.layout}"
    return fingerprint([values])


def _parts(thing: Any) -> list[Any]:
    """The parts of an object that a function consists of or holds."""
    if isinstance(thing, nn.Module):
        return [vars(thing)]
    if isinstance(thing, partial | partialmethod):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, MethodType):
        return [thing.__func__]
    if isinstance(thing, FunctionType):
        return [thing.__code__, thing.__defaults__, thing.__kwdefaults__, _closure_of(thing)]
    if isinstance(thing, CodeType):
        return [thing.co_code, thing.co_names, thing.co_consts]
    if isinstance(thing, Mapping):
        return [*thing, *thing.values()]
    if isinstance(thing, set | frozenset):
        return sorted(map(repr, thing))
    if is_dataclass(thing) and not isinstance(thing, type):
        return [getattr(thing, field.name) for field in fields(thing)]
    return list(thing) if isinstance(thing, tuple | list) else []


def _closure_of(function: FunctionType) -> list[Any]:
    """The values that a function closes over, without those that may change as it runs."""
    values = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell: its name was never set
            values.append(cell.cell_contents)
    return [value for value in values if not isinstance(value, _GROWING)]
