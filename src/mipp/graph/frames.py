"""Lines and modules of a model's code, by the frames of a pass that runs or that failed."""

import os
import sys
from collections.abc import Mapping
from dis import opname
from functools import cache
from pathlib import Path
from types import FrameType

import torch

from mipp.errors import UnsupportedModelError

_LIBRARY_FOLDERS = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_DEEPEST = 8  # functions between the method of a module and what it calls


def innermost_frame() -> FrameType | None:
    """The innermost frame of the model's code that is running: outside of torch and of this library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_library(frame.f_code.co_filename):
        if _is_start(frame):
            return None
        frame = frame.f_back
    return frame


def line_of(frame: FrameType | None, number: int | None = None) -> str:
    """The place of a frame, such as "file.py:12"; "" for none."""
    return f"{_name_of(frame.f_code.co_filename)}:{number or frame.f_lineno}" if frame is not None else ""


@cache
def _name_of(file: str) -> str:
    return Path(file).name


@cache
def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARY_FOLDERS)


def module_in(frame: FrameType | None, paths: Mapping[int, str]) -> str:
    """Path of the module whose method stands in a frame or next around it, "" if there is none.

    Args:
        paths: Paths of the modules by `id`.
    """
    for _ in range(_DEEPEST):
        if frame is None or _is_start(frame):
            break
        if (path := paths.get(id(frame.f_locals.get("self")))) is not None:
            return path
        frame = frame.f_back
    return ""


def _is_start(frame: FrameType) -> bool:
    """True for the frame in which this library calls the model (`mipp.graph.trace.run`)."""
    return frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "mipp.graph.trace"


def line_that_failed(error: UnsupportedModelError) -> str:
    """The innermost line of the model's code that a failed pass stood in, "" if it is not known."""
    step, found = error.__cause__.__traceback__ if error.__cause__ is not None else None, ""
    while step is not None:
        if not _is_library(step.tb_frame.f_code.co_filename):
            found = line_of(step.tb_frame, step.tb_lineno)
        step = step.tb_next
    return found


def module_that_refused(error: UnsupportedModelError) -> str | None:
    """Path of the module whose code raised, as an assertion does, what ended a pass; None if an op raised it."""
    step = error.__cause__.__traceback__ if error.__cause__ is not None else None
    frames: list[FrameType] = []
    raised = False
    while step is not None:
        frames.append(step.tb_frame)
        raised = opname[step.tb_frame.f_code.co_code[step.tb_lasti]] == "RAISE_VARARGS"
        step = step.tb_next
    root = next((frame.f_locals["model"] for frame in frames if _is_start(frame)), None)
    if root is None or not raised:
        return None
    paths = {id(module): path for path, module in root.named_modules()}
    return next((paths[id(own)] for f in reversed(frames) if id(own := f.f_locals.get("self")) in paths), None)
