"""Latency in ONNX Runtime, for budgets that are to hold where a network is deployed."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.benchmark import Timer

from mipp.export.formats import onnx_session
from mipp.graph.call import Call
from mipp.modules.copies import working_copy
from mipp.plan.latency import TIMERS


def onnxruntime_ms(model: nn.Module, call: Call, seconds: float = 0.3) -> float:
    """Median time of one call in milliseconds, in ONNX Runtime on the CPU, with as many threads as torch has.

    The model is exported as `mipp.export.export` does it.

    Raises:
        MissingRequirementError: ONNX needs packages that are not installed.
        MippError: The model cannot be exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        session, given = onnx_session(
            working_copy(model), call, Path(folder) / "model.onnx", threads=torch.get_num_threads()
        )
        timer = Timer("session.run(None, given)", globals={"session": session, "given": given})
        return 1e3 * timer.blocked_autorange(min_run_time=seconds).median


TIMERS["onnxruntime"] = onnxruntime_ms
