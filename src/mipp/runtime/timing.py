"""The time that something takes on this machine."""

import time
from collections.abc import Callable


def least_seconds(call: Callable[[], object], repeats: int = 9) -> float:
    """The least time of several calls, in seconds: what other work on the machine adds is left out."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)
