"""Text from the command line turned into numbers, widths, tensors and fields of methods."""

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

import torch
from torch import Tensor

import mipp
from mipp.cli.errors import CommandError, unknown
from mipp.errors import clip, quote
from mipp.plan.registry import CONSTRAINTS
from mipp.runtime.settings import alternatives

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64, "int32": torch.int32}
_WORDS: dict[object, dict[str, Any]] = {bool: {"true": True, "false": False}, type(None): {"none": None}}
_AMOUNTS = (*CONSTRAINTS, "min_keep", "round_to")
_MOST_NUMBERS, _MOST_DIMENSIONS = 2**28, 64
"""Of an example input."""
_T = TypeVar("_T")


def amount(name: str, text: str) -> float | int:
    """Reads what a budget may be: a whole number is absolute, one with a point or exponent a float."""
    may_exceed_one = name in CONSTRAINTS and not CONSTRAINTS[name].is_whole
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if kind is int or number <= 1 or may_exceed_one:
            return number
    option = name.replace("_", "-")
    raise CommandError(f"--{option} is {quote(text)}; expected a fraction such as 0.5, or a whole number such as 1000.")


def widths(texts: Sequence[str]) -> dict[str, int]:
    """Reads GROUP=N."""
    pairs = [_pair("width", "GROUP=N, such as conv1=8", text) for text in texts]
    found = dict(pairs)
    for name, text in pairs:
        if found[name] != text:
            raise CommandError(
                f"--width names {clip(name)} twice, with {clip(text)} and {clip(found[name])}; expected one width."
            )
        if not _is_number(text):
            raise CommandError(
                f"--width {clip(name)}={clip(text)}: {quote(text)} is no number of nodes; expected such as 8."
            )
    return {name: int(text) for name, text in found.items()}


def example(texts: Sequence[str]) -> tuple[Tensor, ...]:
    """Reads shapes such as 1,3,32,32 or 1,128:int64: one tensor each, normal for floats and zeros for integers."""
    return tuple(_tensor(text) for text in texts)


def method(name: str, settings: Sequence[str]) -> mipp.methods.Method:
    """Makes the method of that name, with the fields that FIELD=VALUE sets."""
    known = mipp.methods.all()
    if name not in known:
        raise unknown("method", name, known)
    return with_settings(known[name](), name, settings)


def with_settings(made: _T, name: str, settings: Sequence[str]) -> _T:
    """A method (called `name` in errors) with the fields that FIELD=VALUE sets."""
    hints = get_type_hints(type(made))
    values: dict[str, Any] = {}
    for field, text in (_pair("set", "FIELD=VALUE, such as order=mi", text) for text in settings):
        if field not in field_names(made):
            raise unknown(f"field of {name}", field, field_names(made))
        values[field] = _value(f"--set {field}={text}", text, hints[field])
    try:
        return _replace(made, values)
    except ValueError as error:
        raise CommandError(f"{name} refuses {clip(', '.join(settings))}: {error}") from error


def methods(text: str) -> dict[str, mipp.methods.Method]:
    """Reads NAME[:FIELD=VALUE...][@NAME...],...; what stands behind @ is the method that a control is like."""
    return {part: _like(part) for part in _list("methods", text)}


def budgets(text: str) -> list[mipp.Budget]:
    """Reads NAME=AMOUNT[:NAME=AMOUNT...],..., such as macs=0.5,nodes=0.1:min_keep=0."""
    return [_budget(part) for part in _list("budgets", text)]


def seeds(text: str) -> list[int]:
    """Reads whole numbers separated by commas."""
    if not all(map(_is_number, _list("seeds", text))):
        raise CommandError(f"--seeds is {quote(text)}; expected whole numbers, such as 0,1,2.")
    return [int(part) for part in _list("seeds", text)]


def _list(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise CommandError(f"--{option} is {quote(text)}; expected a list separated by commas, without gaps.")
    return parts


def _like(text: str) -> mipp.methods.Method:
    own, _, other = text.partition("@")
    name, *settings = own.split(":")
    made = method(name, settings)
    if not other:
        return made
    if "like" not in field_names(made):
        raise CommandError(f"--methods {clip(text)}: {name} takes no other method; random, reinit and scratch do.")
    return _replace(made, {"like": _like(other)})


def _budget(text: str) -> mipp.Budget:
    found: dict[str, Any] = {}
    for name, value in (_pair("budgets", "NAME=AMOUNT, such as macs=0.5", part) for part in text.split(":")):
        if name not in _AMOUNTS:
            raise unknown("budget", name, _AMOUNTS)
        found[name] = amount(name, value)
    return mipp.Budget(**found)


def field_names(made: object) -> list[str]:
    """Fields of a method that can be given to its constructor."""
    return [f.name for f in fields(made) if f.init] if is_dataclass(made) else []


def _replace(made: _T, values: dict[str, Any]) -> _T:
    return replace(made, **values) if values else made  # type: ignore[type-var]


def _pair(option: str, form: str, text: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=") if option == "width" else text.partition("=")
    if not (name and sign and value):
        raise CommandError(f"--{option} is {quote(text)}; expected {form}.")
    return name.strip(), value.strip()


def _tensor(text: str) -> Tensor:
    shape, _, dtype = text.partition(":")
    if dtype and dtype not in _DTYPES:
        raise unknown("type of --input", dtype, _DTYPES)
    if not all(map(_is_number, shape.split(","))):
        raise CommandError(
            f"--input is {quote(text)}; expected the shape of one input, such as 1,3,32,32 or 1,128:int64."
        )
    sizes = [int(size) for size in shape.split(",")]
    if len(sizes) > _MOST_DIMENSIONS or math.prod(sizes) > _MOST_NUMBERS:
        raise CommandError(
            f"--input is {quote(text)}: {math.prod(sizes):,} numbers in {len(sizes)} dimensions; expected the shape of "
            f"one input, with at most {_MOST_NUMBERS:,} numbers."
        )
    kind = _DTYPES[dtype or "float32"]
    if not kind.is_floating_point:
        return torch.zeros(sizes, dtype=kind)
    return torch.randn(sizes, dtype=kind, generator=torch.Generator().manual_seed(0))


def _is_number(text: str) -> bool:
    """True for digits of a whole number that 64 bits can hold."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def _value(what: str, text: str, hint: Any) -> Any:
    """The text as the first of the hinted types that takes it."""
    kinds = [choice if kind is Literal else kind for kind, choice in alternatives(hint)]
    for kind in kinds:
        try:
            return _as(kind, text)
        except ValueError:
            continue
    expected = " or ".join(map(_name, kinds))
    raise CommandError(f"{clip(what)}: expected {expected}.")


def _as(kind: Any, text: str) -> Any:
    words = _WORDS.get(kind, {})
    if text.lower() in words:
        return words[text.lower()]
    if kind in (int, float, str) or text == str(kind):  # the latter is one of the values of a Literal
        return kind(text) if isinstance(kind, type) else kind
    raise ValueError(text)


def _name(kind: Any) -> str:
    if kind is bool:
        return "true or false"
    if kind is type(None):
        return "none"
    return kind.__name__ if isinstance(kind, type) else str(kind)
