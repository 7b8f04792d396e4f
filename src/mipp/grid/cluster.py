"""Calls handed to Ray: the processors of this machine, or of all machines of a cluster."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mipp.errors import MippError, MissingRequirementError

Item = TypeVar("Item")
Result = TypeVar("Result")
_PATIENCE = 10.0
"""Seconds for a cluster to answer; Ray itself keeps asking for minutes without a word."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # calls see the GPUs of their machine although they reserve none
}


def on_ray(
    function: Callable[[Item], Result], items: Sequence[Item], address: str, retries: int = 3
) -> Iterator[Result]:
    """Calls a function on every item, one call per processor, and yields the results as they come.

    Args:
        function: Sent to every worker once, with whatever it holds.
        items: What it is called on.
        address: "local" for the processors of this machine, for as long as it takes; else that of a cluster, as
            `ray start --head` prints it.
        retries: How often to repeat a call whose worker was lost; an error that the function raises is final.

    Raises:
        MissingRequirementError: Ray is not installed.
        MippError: There is no cluster at that address.
    """
    with _session(address) as ray:
        call = ray.remote(num_cpus=1, max_retries=retries)(_connect)
        shared = ray.put(function)
        waiting = [call.remote(shared, item) for item in items]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)


def _connect(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


@contextmanager
def _session(address: str) -> Iterator[ModuleType]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingRequirementError(
            'Sweeps over machines need Ray, which is not installed: pip install "torch-mipp[experiments]".'
        ) from error
    try:
        _call_up(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **_local(address))
    except (OSError, ValueError) as error:
        raise MippError(
            f"No Ray cluster answers at '{address}' ({error}). Start one with `ray start --head`, which prints its "
            "address, and join it from other machines; or use 'local' for the processors of this one."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _call_up(address: str) -> None:
    """Raises what the network says if an address with a host and a port does not answer."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=_PATIENCE).close()


def _local(address: str) -> dict[str, Any]:
    return {"include_dashboard": False} if address == "local" else {}
