"""Files that are written once, by whichever process comes first."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

_INSTANT = 0.2
"""Seconds: for less than that a lock is held by whoever only looks whether it is."""


@dataclass(frozen=True)
class Job:
    """A file to be written, and how.

    Attributes:
        name: What it is, for people.
        path: The file; what it depends on is in its name.
        write: `write(path)` makes it, at a path of its own.
    """

    name: str
    path: Path
    write: Callable[[Path], None]


def once(job: Job, *, wait: bool = True) -> bool:
    """Writes a file unless it exists. It appears complete or not at all, and only one process writes it.

    Returns:
        Whether it was written here: another process may have been first.

    Raises:
        filelock.Timeout: Another process is at it, and it was not to be waited for.
    """
    if job.path.exists():
        return False
    job.path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{job.path}.lock", timeout=-1 if wait else _INSTANT):
        if job.path.exists():
            return False
        part = job.path.with_suffix(f".{os.getpid()}.part")
        job.write(part)
        part.replace(job.path)
        return True


def at_work(jobs: Iterable[Job]) -> bool:
    """True if another process is writing one of these files."""
    return any(not job.path.exists() and job.path.parent.exists() and _lock(job) for job in jobs)


def sweep(
    jobs: Iterable[Job], on_time: Callable[[], bool] = lambda: True, done: Callable[[Job], None] = lambda job: None
) -> None:
    """Writes all files that are missing; several processes that are started on the same jobs share them.

    A file that another process is writing is passed over. One that is killed leaves nothing behind that blocks others.

    Args:
        jobs: The most wanted first.
        on_time: Asked before each job; when it says no, the sweep ends.
        done: Called with each job that was done here.
    """
    for job in jobs:
        if job.path.exists():
            continue
        if not on_time():
            return
        try:
            written = once(job, wait=False)
        except Timeout:
            continue
        if written:
            done(job)


def _lock(job: Job) -> bool:
    try:
        with FileLock(f"{job.path}.lock", timeout=_INSTANT):
            return False
    except Timeout:
        return True
