"""JSON of others as typed data: bounded in size, depth and numbers, and refused in one form where it is anything else.

A file kind is declared as a frozen dataclass, and `as_type` reads data as that class or says which part of them is of
another form. Nothing that a file announces is allocated here.
"""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mipp.errors import clip, quote

MOST_BYTES = 2**28
"""Of a JSON file; the plan of a network of a billion parameters takes a few millions."""
_MOST_DEPTH = 64
_LARGEST = 2**63


class FormError(ValueError):
    """Data are of another form than their type; the message says which part, what it is and what was expected."""


def read_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        OSError: The file cannot be read.
        FormError: It is too large, or holds no JSON.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    return parse_json(content)


def parse_json(content: bytes | str) -> Any:
    """The value that a text in JSON stands for; of an integer beyond 64 bits, that is none.

    Raises:
        FormError: The text is too long, or no JSON.
    """
    if len(content) > MOST_BYTES:
        raise FormError(f"it is longer than {MOST_BYTES:,} bytes")
    try:
        return json.loads(content, parse_int=_whole)
    except RecursionError as error:
        raise FormError("it is nested too deep") from error
    except ValueError as error:  # no JSON, no UTF-8
        raise error if isinstance(error, FormError) else FormError(str(error)) from error


def as_type(kind: Any, data: Any, place: str = "") -> Any:
    """Data of JSON as a type: a dataclass, tuple, dict, union, `Literal`, `object` (anything), or plain.

    None is NaN where a float has to be; fields that the class does not know are ignored.

    Args:
        kind: The type.
        data: What JSON knows.
        place: Names the part in errors, such as `groups.conv1.size`.

    Raises:
        FormError: The data are of another form.
    """
    if is_dataclass(kind):
        return _as_dataclass(kind, data, place)
    arguments, origin = get_args(kind), get_origin(kind)
    if origin is tuple:
        return _as_tuple(arguments, data, place)
    if origin is dict:
        if not isinstance(data, Mapping) or not all(type(name) is str for name in data):
            raise _unlike("an object with names", data, place)
        return {_as_text(key, place): as_type(arguments[1], item, _inside(place, key)) for key, item in data.items()}
    if origin in (Union, UnionType):
        return _as_one_of(arguments, data, place)
    if origin is Literal:
        if not any(type(data) is type(choice) and data == choice for choice in arguments):
            raise _unlike(" or ".join(map(repr, arguments)), data, place)
        return data
    return _PLAIN[kind](data, place)


def _whole(digits: str) -> int:
    if len(digits) > len(str(_LARGEST)) + 1:
        raise FormError(f"the number {quote(digits)} is too large")
    return int(digits)


def _as_dataclass(kind: Any, data: Any, place: str) -> Any:
    if not isinstance(data, Mapping):
        raise _unlike("an object with fields", data, place)
    values = {}
    for name, hint, needed in _fields_of(kind):
        if name in data:
            values[name] = as_type(hint, data[name], _inside(place, name))
        elif needed:
            raise FormError(f"{clip(place) or 'it'} lacks the field '{name}'")
    return kind(**values)


@cache
def _fields_of(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """Name and type of each field of a dataclass, and true if it has no default."""
    hints = get_type_hints(kind)
    return tuple((f.name, hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind))


def _as_tuple(arguments: tuple[Any, ...], data: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise _unlike("a list", data, place)
    if arguments[-1] is not Ellipsis:
        if len(data) != len(arguments):
            raise _unlike(f"a list of {len(arguments)}", data, place)
        return tuple(
            as_type(kind, item, f"{place}[{n}]") for n, (kind, item) in enumerate(zip(arguments, data, strict=True))
        )
    if arguments[0] is int and all(type(item) is int for item in data):  # of a plan, most of what there is
        if data and not -_LARGEST <= min(data) <= max(data) < _LARGEST:
            raise _unlike("numbers of 64 bits", data, place)
        return tuple(data)
    return tuple(as_type(arguments[0], item, f"{place}[{n}]") for n, item in enumerate(data))


def _as_one_of(kinds: tuple[Any, ...], data: Any, place: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        with suppress(FormError):
            return as_type(kind, data, place)
    return as_type(last, data, place)


def _as_text(data: Any, place: str) -> str:
    if type(data) is not str:
        raise _unlike("text", data, place)
    try:
        data.encode()
    except UnicodeEncodeError as error:
        raise _unlike("text that UTF-8 can hold", data, place) from error
    return data


def _as_bool(data: Any, place: str) -> bool:
    if type(data) is not bool:
        raise _unlike("true or false", data, place)
    return data


def _as_int(data: Any, place: str) -> int:
    if type(data) not in (int, float) or not -_LARGEST <= data < _LARGEST or data != int(data):
        raise _unlike("a whole number of 64 bits", data, place)
    return int(data)


def _as_float(data: Any, place: str) -> float:
    if data is None:
        return math.nan
    if type(data) is float:
        return data
    if type(data) is int and -_LARGEST <= data < _LARGEST:
        return float(data)
    raise _unlike("a number", data, place)


def _as_json(data: Any, place: str, depth: int = 0) -> Any:
    """Anything that JSON knows, for fields that are only shown."""
    if depth > _MOST_DEPTH:
        raise FormError(f"{place} is nested deeper than {_MOST_DEPTH} levels")
    if isinstance(data, Mapping):
        return {_as_text(key, place): _as_json(item, place, depth + 1) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [_as_json(item, place, depth + 1) for item in data]
    if type(data) is int:
        return _as_int(data, place)
    return data if data is None or type(data) in (bool, float) else _as_text(data, place)


_PLAIN: dict[Any, Callable[[Any, str], Any]] = {
    str: _as_text, bool: _as_bool, int: _as_int, float: _as_float, object: _as_json,
}  # fmt: skip


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _unlike(expected: str, data: Any, place: str) -> FormError:
    found = f"{clip(place)} is {quote(data)}" if place else f"found {quote(data)}"
    return FormError(f"{found}; expected {expected}")
