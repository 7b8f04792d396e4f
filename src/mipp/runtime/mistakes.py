"""Mistakes of our own, told from those of the caller's code: by where an error was raised.

An error belongs to the innermost code outside of libraries. That is the model's, the loss's or the training's where one
of these raised, and where an op did that they, or a function marked as a border, called; else it is ours, although the
model stands above it on the stack: in a hook, in an op that is watched, in what is called after a step.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import TypeVar

from mipp.errors import InternalError, MippError

_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "scipy"}
_MODELS = "mipp.zoo"
_PASSES = (MippError, InternalError, MemoryError, OSError, Warning)
_OUT_OF_MEMORY = "OutOfMemoryError"  # torch's, by its name: the command starts without torch
_BORDERS: set[CodeType] = set()
F = TypeVar("F", bound=Callable[..., object])


def border(function: F) -> F:
    """Marks a function that calls code of the caller's, or stands for it: what is raised in its own frame is theirs."""
    _BORDERS.add(function.__code__)
    return function


def is_own(error: BaseException) -> bool:
    """True if the library's own code raised an error below the frame in which it was caught."""
    step, innermost = error.__traceback__, None
    caught = step.tb_frame if step is not None else None
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _LIBRARIES:
            innermost = step.tb_frame
        step = step.tb_next
    if innermost is None or innermost is caught or innermost.f_code in _BORDERS:
        return False
    module = f"{innermost.f_globals.get('__name__', '')}."
    return module.startswith("mipp.") and not module.startswith(f"{_MODELS}.")


def reraise_own(error: BaseException) -> None:
    """Raises what is no mistake of the caller's: refusals as they are, mistakes of ours as such.

    Raises:
        InternalError: The library's own code raised the error.
    """
    if isinstance(error, _PASSES) or type(error).__name__ == _OUT_OF_MEMORY:
        raise error
    if is_own(error):
        raise InternalError(error) from error


@contextmanager
def admit_mistakes() -> Iterator[None]:
    """Raises what the library's own code raises in a block, other than on purpose, as a mistake of ours."""
    try:
        yield
    except Exception as error:
        reraise_own(error)
        raise
