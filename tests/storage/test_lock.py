"""A folder is held by one process at a time."""

import os
import subprocess
import sys

import pytest

import mipp
from mipp.storage.lock import Lock

HOLDS = """
import os, sys, time
from pathlib import Path
from mipp.storage.lock import Lock
lock = Lock(Path(sys.argv[1]))
if sys.argv[2:]:  # a child of its own, which has the lock too
    child = os.fork()
    if not child:
        time.sleep(float(sys.argv[2]))
        os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def holder(*options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path, *options], **pipes)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield holder
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_process_is_told_who_holds_the_folder(start, tmp_path):
    process = start()
    with pytest.raises(mipp.CheckpointError, match=rf"in use: process {process.pid} has held it since 20\d\d-"):
        Lock(tmp_path)
    process.communicate("")
    Lock(tmp_path).release()


def test_a_process_that_was_killed_holds_nothing(start, tmp_path):
    process = start()
    process.kill()
    process.communicate()
    assert (tmp_path / "holder.json").exists()
    Lock(tmp_path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_that_outlive_a_killed_process_do_not_keep_others_out(start, tmp_path):
    process = start("2")
    process.kill()
    process.wait()
    Lock(tmp_path).release()


def test_one_process_cannot_hold_a_folder_twice(tmp_path):
    lock = Lock(tmp_path)
    with pytest.raises(mipp.CheckpointError, match=f"process {os.getpid()}"):
        Lock(tmp_path)
    lock.release()
    Lock(tmp_path).release()
