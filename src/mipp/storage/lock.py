"""A lock on a folder, held by one process at a time."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from mipp.errors import CheckpointError, clip
from mipp.runtime.typed import FormError, as_type, read_json

_LEFT_RUNNING = 10.0
"""Seconds: workers of data loaders end by then when the process that started them is gone."""


class Lock:
    """Holds a folder for this process until `release`; the system lets go of it when the process ends.

    Args:
        folder: What to hold.

    Raises:
        CheckpointError: Another run holds it.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock, Timeout  # only runs that note their steps need it

        self._holder = folder / "holder.json"
        self._lock = FileLock(folder / "lock", thread_local=False)
        found = self._read()
        try:
            self._lock.acquire(timeout=0 if found is None or _is_alive(found.pid) else _LEFT_RUNNING, poll_interval=0.1)
        except Timeout as error:
            found = self._read() or found
            who = f"process {found.pid} has held it since {clip(found.since)}" if found else "another process holds it"
            raise CheckpointError(
                f"The checkpoint {folder} is in use: {who}. Two runs in one folder would mix their steps: wait until "
                "that one has ended, or choose another folder."
            ) from error
        holder = _Holder(os.getpid(), datetime.now().astimezone().isoformat(" ", "seconds"))
        try:
            self._holder.write_text(json.dumps(asdict(holder)), encoding="utf-8")
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Lets others hold the folder."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _read(self) -> "_Holder | None":
        """The process that holds the folder; None where that is not known."""
        try:
            found: _Holder = as_type(_Holder, read_json(self._holder))
        except (OSError, FormError):
            return None
        return found


@dataclass(frozen=True)
class _Holder:
    """A process, and since when it has held the folder."""

    pid: int
    since: str


def _is_alive(process: int) -> bool:
    """False if it is known that a process has ended."""
    if process < 1 or os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
