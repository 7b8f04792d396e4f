"""Export to ONNX and torch.export, with a check that what was written computes what the model computes."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mipp.data.calibration import as_call
from mipp.errors import MippError, quote
from mipp.graph.call import Call
from mipp.graph.trace import forward
from mipp.graph.trees import tensors_in
from mipp.modules.copies import working_copy
from mipp.modules.wrappers import unwrap
from mipp.runtime.mistakes import admit_mistakes, reraise_own
from mipp.runtime.paths import as_path
from mipp.runtime.random_states import own_random_states
from mipp.runtime.requirements import EXPORT, require
from mipp.runtime.settings import is_whole
from mipp.storage.places import new_file
from mipp.surgery.proof import distance

TOLERANCE = 1e-3
"""Largest difference to the model, relative to the largest output; other kernels sum in another order."""


@admit_mistakes()
@own_random_states()
def export(model: nn.Module, example: Any, path: str | Path, dynamic: Sequence[int] | None = None) -> float:
    """Writes a model in eval mode as ONNX (`.onnx`) or as a program of torch.export (`.pt2`), and runs what it wrote.

    Dimensions that are not dynamic are those of the example. Of a Hugging Face decoder the cache is no output: no file
    could hold it.

    Args:
        model: Pruned or not; not changed.
        example: One input: a Tensor; a tuple of positional arguments; a dict of keyword arguments.
        path: A new file.
        dynamic: Dimensions of all inputs that may change later: (0, 1) for samples and length. By default the first,
            where the model allows it.

    Returns:
        The largest difference of any output, relative to the largest value of that output.

    Raises:
        UnsupportedModelError: The model does not run on the example.
        MissingRequirementError: ONNX needs packages that are not installed.
        MippError: The file exists, `dynamic` names no dimensions of the inputs, the model cannot be exported, or the
            file computes something else.
    """
    path, call, model = as_path(path), as_call(example), _without_cache(working_copy(unwrap(model)))
    _check_dynamic(dynamic, call)
    writers = {".onnx": _onnx, ".pt2": _torch}
    if path.suffix not in writers:
        raise MippError(f"{path} is neither ONNX nor torch.export by its name; expected a name in .onnx or .pt2.")
    expected = tensors_in(forward(model, call))
    with new_file(path) as part:
        found = writers[path.suffix](model, call, part, dynamic)
        gap = distance(found, expected) if len(found) == len(expected) else float("inf")
        if not gap <= TOLERANCE:
            raise MippError(
                f"What was written to {path} differs from the model by {gap:.2g} of the largest output; expected at "
                f"most {TOLERANCE}. Nothing is left there. Export in float32, and avoid code that depends on values."
            )
    return gap


def _without_cache(model: nn.Module) -> nn.Module:
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "use_cache", False) is True:
            config.use_cache = False  # the copy's own
    return model


def _check_dynamic(dynamic: Any, call: Call) -> None:
    if dynamic is None:
        return
    most = max((tensor.ndim for tensor in call.tensors), default=0)
    listed = isinstance(dynamic, Sequence) and not isinstance(dynamic, str | bytes)
    if not listed or not all(is_whole(dim) and 0 <= dim < most for dim in dynamic):
        raise MippError(
            f"dynamic={quote(dynamic)}: expected dimensions of the inputs, counted from 0, such as (0, 1); here they "
            f"are below {most}."
        )


def _torch(model: nn.Module, call: Call, path: Path, dynamic: Sequence[int] | None) -> list[Tensor]:
    torch.export.save(_program(model, call, dynamic), path)
    with torch.no_grad():
        return tensors_in(call.map(Tensor.clone)(torch.export.load(path).module()))


def _onnx(model: nn.Module, call: Call, path: Path, dynamic: Sequence[int] | None) -> list[Tensor]:
    session, given = onnx_session(model, call, path, dynamic)
    return [torch.from_numpy(output) for output in session.run(None, given)]


def onnx_session(
    model: nn.Module, call: Call, path: Path, dynamic: Sequence[int] | None = None, threads: int = 0
) -> tuple[Any, dict[str, Any]]:
    """Writes a model as ONNX, and loads it in ONNX Runtime.

    Args:
        model: In eval mode.
        call: Its inputs.
        path: A new file.
        dynamic: As for `export`.
        threads: For one op; 0 leaves it to the runtime.

    Returns:
        The session, and the inputs by name as arrays.
    """
    runtime, *_ = (require(name, "ONNX", EXPORT) for name in ("onnxruntime", "onnx", "onnxscript"))
    with _quiet("torch.onnx"):
        torch.onnx.export(_program(model, call, dynamic), (), path, dynamo=True, verbose=False, external_data=False)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return session, {n: t.detach().cpu().numpy() for n, t in zip(names, call.tensors, strict=True)}


def _program(model: nn.Module, call: Call, dynamic: Sequence[int] | None) -> torch.export.ExportedProgram:
    """The exported program of a call. One sample is doubled first: the file would be specialised to a batch of one."""
    if all(tensor.ndim and len(tensor) == 1 for tensor in call.tensors):
        with suppress(MippError):
            return _export(model, call.map(lambda tensor: tensor.repeat_interleave(2, 0)), dynamic)
    return _export(model, call, dynamic)


def _export(model: nn.Module, call: Call, dynamic: Sequence[int] | None) -> torch.export.ExportedProgram:
    kind = torch.export.Dim.AUTO if dynamic is None else torch.export.Dim.DYNAMIC
    wanted = (0,) if dynamic is None else [int(dim) for dim in dynamic]
    sizes = torch.export.ShapesCollection()
    for tensor in call.tensors:
        if tensor.ndim:
            sizes[tensor] = {dim: kind for dim in wanted if dim < tensor.ndim}
    try:
        return torch.export.export(model, call.args, dict(call.kwargs), dynamic_shapes=sizes)  # type: ignore[arg-type]
    except Exception as error:
        reraise_own(error)
        reason = str(error).partition("\n")[0]
        raise MippError(
            f"torch.export cannot follow {type(model).__name__} ({type(error).__name__}: {reason}). Export needs a "
            "forward without branches on values of tensors, and dimensions that may change where dynamic names them."
        ) from error


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keeps back what a library says about packages that nobody asked for."""
    found = logging.getLogger(logger)
    before = found.level
    found.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's own code
            yield
    finally:
        found.setLevel(before)
