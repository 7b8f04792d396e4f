"""A lock on a folder, held by one process at a time."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from mipp.errors import CheckpointError

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
            self._lock.acquire(timeout=0 if _is_alive(found.get("pid")) else _LEFT_RUNNING, poll_interval=0.1)
        except Timeout as error:
            found = self._read() or found
            who = f"process {found['pid']} has held it since {found['since']}" if found else "another process holds it"
            raise CheckpointError(
                f"The checkpoint {folder} is in use: {who}. Two runs in one folder would mix their steps: wait until "
                "that one has ended, or choose another folder."
            ) from error
        holder = {"pid": os.getpid(), "since": datetime.now().astimezone().isoformat(" ", "seconds")}
        try:
            self._holder.write_text(json.dumps(holder), encoding="utf-8")
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Lets others hold the folder."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _read(self) -> dict[str, Any]:
        """The process that holds the folder and since when; nothing where that is not known."""
        try:
            found = json.loads(self._holder.read_text(encoding="utf-8"))
            return {"pid": int(found["pid"]), "since": str(found["since"])}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {}


def _is_alive(process: int | None) -> bool:
    """False if it is known that a process has ended."""
    if process is None or process < 1 or os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
