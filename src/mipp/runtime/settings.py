"""Settings that a caller makes, checked against the types of their fields."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from mipp.errors import MippError, quote

_LARGEST = 2**63


def check_settings(settings: Any, error: type[MippError] = MippError, **intervals: str) -> None:
    """Refuses a dataclass with a field of another type: numbers, truths, words and choices; others are not looked at.

    Numbers are those of Python and NumPy; NaN is none, and whole ones have 64 bits.

    Args:
        settings: The dataclass.
        error: What is raised.
        intervals: Numbers that a field may be, such as "(0, 1]"; a field that may be None may be that too.

    Raises:
        MippError: A field is of another type, or outside of its interval; it is named.
    """
    hints: dict[str, Any] = {}
    with suppress(NameError):  # of a type that only its module knows
        hints = get_type_hints(type(settings))
    for field in fields(settings):
        value, kinds = getattr(settings, field.name), list(alternatives(hints.get(field.name)))
        if all(kind in _TESTS for kind, _ in kinds) and not any(_TESTS[kind](value, choice) for kind, choice in kinds):
            expected = " or ".join(_NAMES.get(kind, repr(choice)) for kind, choice in kinds)
            raise error(f"{type(settings).__name__}({field.name}={quote(value)}): expected {expected}.")
    for name, interval in intervals.items():
        value = getattr(settings, name)
        if value is not None and not _is_within(value, interval):
            expected = _INTERVALS.get(interval, f"a number in {interval}")
            raise error(f"{type(settings).__name__}({name}={quote(value)}): expected {expected}.")


def _is_within(number: float, interval: str) -> bool:
    """True if a number is in an interval, such as "[0, 1)", of which a bracket holds the end and a parenthesis not."""
    low, high = map(float, interval[1:-1].split(","))
    closed = [end for end, sign in ((low, interval[0]), (high, interval[-1])) if sign in "[]"]
    return low < number < high or number in closed


def is_whole(value: Any) -> bool:
    """True for whole numbers of 64 bits, of Python or NumPy; truths are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) < _LARGEST


def check_function(name: str, function: object, *arguments: str) -> None:
    """Refuses what is no function, and a function that takes other arguments.

    Args:
        name: What the function is for the caller.
        function: What was given.
        arguments: What it will be called with, such as "model" or, by name, "fraction=...".

    Raises:
        MippError: It is a class, cannot be called, or cannot be called so.
    """
    call = f"{name}({', '.join(arguments)})"
    if not callable(function) or isinstance(function, type):
        raise MippError(f"{name}={quote(function)} is no function; expected one that is called as {call}.")
    by_name = {argument.partition("=")[0]: ... for argument in arguments if "=" in argument}
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # written in C: it tells nothing
        return
    try:
        signature.bind(*[...] * (len(arguments) - len(by_name)), **by_name)
    except TypeError as mismatch:
        raise MippError(
            f"{name}={quote(function)} is called as {call}, which it does not take: {mismatch}."
        ) from mismatch


def required_parameters(function: Callable[..., object]) -> list[str]:
    """Names of the parameters without which a function cannot be called; none where it tells nothing."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # written in C
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def alternatives(hint: Any) -> Iterator[tuple[Any, Any]]:
    """Types that a hint admits; of a `Literal`, it and each of its choices."""
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from alternatives(part)
    elif get_origin(hint) is Literal:
        yield from ((Literal, choice) for choice in get_args(hint))
    else:
        yield hint, None


def _is_number(value: Any, _: object) -> bool:
    if isinstance(value, Integral):
        return is_whole(value)
    return isinstance(value, Real) and not math.isnan(value)


_TESTS: dict[Any, Callable[[Any, Any], bool]] = {
    int: lambda value, _: is_whole(value),
    float: _is_number,
    bool: lambda value, _: isinstance(value, bool | np.bool_),
    str: lambda value, _: isinstance(value, str),
    type(None): lambda value, _: value is None,
    Literal: lambda value, choice: type(value) is type(choice) and value == choice,
}
_INTERVALS = {"(0, inf]": "a positive number", "[0, inf)": "0 or more", "[1, inf)": "1 or more"}
_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
