"""Hashes of tensors and functions, by which a checkpoint tells its own run from others."""

import hashlib
import re
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial, partialmethod
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.graph.trees import tensors_in

_GROWING = (list, dict, set)
"""What may change as a function runs, such as a list of losses, is no part of it where it holds it directly."""
_DEEPEST = 100
_OF_MODULES = {*vars(nn.Module())}
"""Attributes that every module has: tensors, hooks, the mode."""
_INSTALLED = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")})
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
    """SHA-256 of what a function does, as far as can be told: its code, and what it holds, closes over or refers to.

    Lists, dictionaries and sets that it holds, closes over or refers to may change as it runs, and do not count.
    """
    description = _Description()
    description.add(function)
    owner = getattr(function, "__self__", function)
    if not isinstance(owner, FunctionType | ModuleType | nn.Module | partial | type | None):
        description.look_into(owner)
    return description.digest.hexdigest()


def hash_value(value: Any) -> str:
    """SHA-256 of an option: of what it is and all that it holds."""
    description = _Description(whole=True)
    description.add(value)
    if hasattr(value, "__dict__") and not isinstance(value, nn.Module | FunctionType | type):
        description.look_into(value)
    return description.digest.hexdigest()


def hash_modules(model: nn.Module) -> str:
    """SHA-256 of what modules are and hold besides tensors: their code, numbers, settings, functions; no modes."""
    description = _Description(whole=True)
    description.add(re.sub(r" at 0x[0-9a-f]+", "", repr(model)))
    for path, module in model.named_modules():
        description.add(path)
        description.add(type(module))
        for name, value in sorted(vars(module).items()):
            if name not in _OF_MODULES and not tensors_in(value, objects=False):
                description.add(name)
                description.add(value)
    return description.digest.hexdigest()


class _Description:
    """A hash that grows by everything that makes a thing what it is; each thing is looked at once.

    Args:
        whole: Lists, dictionaries and sets that objects and functions hold count.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.digest, self._whole, self._depth = hashlib.sha256(), whole, 0
        self._seen: dict[int, tuple[int, Any]] = {}  # with the things themselves, so that no id is used twice

    def add(self, thing: Any) -> None:
        if thing is None or isinstance(thing, _PLAIN):
            self._write(repr(thing))
        elif isinstance(thing, Tensor | np.ndarray):
            self._write(_of_values(thing))
        elif id(thing) in self._seen:
            self._write(f"again {self._seen[id(thing)][0]}")
        elif self._depth < _DEEPEST:
            self._seen[id(thing)] = len(self._seen), thing
            self._write(getattr(thing, "__qualname__", type(thing).__qualname__))
            self._depth += 1
            for part in self._parts(thing):
                self.add(part)
            if _is_settings(thing):
                self.look_into(thing)
            self._depth -= 1
            self._write("end")

    def look_into(self, owner: Any) -> None:
        """The code and the attributes of an object that is called, or whose method is."""
        slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
        held = {**{name: getattr(owner, name, None) for name in slots}, **getattr(owner, "__dict__", {})}
        self.add(type(owner).__call__ if callable(owner) else None)
        for name, value in sorted(held.items()):
            if self._counts(value):
                self._write(name)
                self.add(value)

    def _parts(self, thing: Any) -> list[Any]:
        """The parts of an object that a function consists of or holds."""
        if isinstance(thing, nn.Module):
            return [vars(thing)]
        if isinstance(thing, partial | partialmethod):
            return [thing.func, thing.args, thing.keywords]
        if isinstance(thing, MethodType):
            return [thing.__func__]
        if isinstance(thing, FunctionType):
            held = [*_closure_of(thing), *_globals_of(thing)]
            own = [thing.__code__, thing.__defaults__, thing.__kwdefaults__]
            return [*own, *(value for value in held if self._counts(value))]
        if isinstance(thing, CodeType):
            return [thing.co_code, thing.co_names, thing.co_consts]
        if isinstance(thing, type):
            return [] if _is_library(thing) else [v for kind in thing.__mro__ for v in _functions_of(kind)]
        if isinstance(thing, Mapping):
            return [*thing, *thing.values()]
        if isinstance(thing, set | frozenset):
            return sorted(map(repr, thing))
        if is_dataclass(thing):
            return [getattr(thing, field.name) for field in fields(thing)]
        return list(thing) if isinstance(thing, tuple | list) else []

    def _counts(self, value: Any) -> bool:
        return self._whole or not isinstance(value, _GROWING)

    def _write(self, text: str) -> None:
        self.digest.update(text.encode() + b"\0")


def _of_values(values: Tensor | NDArray[Any]) -> str:
    if isinstance(values, np.ndarray):
        return repr(values.tolist()) if values.dtype == object else f"{values.dtype}{values.shape}{values.tobytes()!r}"
    if values.is_meta or values.layout is not torch.strided:
        return f"{tuple(values.shape)}{values.dtype}{values.layout}"
    return fingerprint([values])


def _closure_of(function: FunctionType) -> list[Any]:
    """The values that a function closes over."""
    values = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell: its name was never set
            values.append(cell.cell_contents)
    return values


def _globals_of(function: FunctionType) -> list[Any]:
    """The global values that a function of the caller's refers to; a module is no such value."""
    if _is_library(function):
        return []
    codes = [function.__code__]
    for code in codes:  # which grows by the functions inside
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    names = dict.fromkeys(name for code in codes for name in code.co_names)
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    return [value for value in found if not isinstance(value, ModuleType)]


def _functions_of(kind: type) -> list[FunctionType]:
    """The functions that a class of the caller's defines."""
    return [] if _is_library(kind) else [f for _, f in sorted(vars(kind).items()) if isinstance(f, FunctionType)]


def _is_settings(thing: Any) -> bool:
    """True if an object is one whose attributes count: of a class of the caller's, or a mere collection of names."""
    if isinstance(thing, (SimpleNamespace, Namespace)):
        return True
    known = (type, FunctionType, MethodType, ModuleType, CodeType, nn.Module, partial, Mapping, tuple, list, set)
    return not isinstance(thing, known) and not is_dataclass(thing) and not _is_library(type(thing))


def _is_library(thing: Any) -> bool:
    """True if a function or a class comes with Python or an installed package, whose version stands for its code."""
    name = str(getattr(thing, "__module__", None) or "builtins").partition(".")[0]
    path = getattr(sys.modules.get(name), "__file__", None) or ""
    return name == "mipp" or name in sys.stdlib_module_names - {"__main__"} or path.startswith(_INSTALLED)
