"""Memory that was freed, which the C library keeps for later: a process takes it until it is given back.

Tensors of less than 32 MB lie between others in the heap of glibc, of which it gives back the end by itself, no more.
"""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Gives freed memory back to the system, where the C library is told so (glibc); elsewhere does nothing."""
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or none that has a name
        return lambda _: None
    return found
