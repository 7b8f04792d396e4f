"""Makes the identity of a run out of its model, data, options, functions and versions."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mipp.data.calibration import Batch
from mipp.graph.program import Program, Ref
from mipp.graph.trace import forward
from mipp.graph.trees import plain_in, results_in, tensors_in
from mipp.modules.copies import state_of, working_copy
from mipp.runtime.versions import versions
from mipp.storage.fingerprint import fingerprint, hash_function, hash_modules, hash_value
from mipp.storage.identity import Identity, Numbers, summary

if TYPE_CHECKING:
    from mipp.pipeline.options import Options
    from mipp.pipeline.stages import Prepared
    from mipp.plan.budget import Budget

_TOLERANCE = 1e-4  # relative; another number of threads sums in another order


def identify(prepared: "Prepared", budget: "Budget") -> Identity:
    """The identity of a run: its folder is that of no run for which any of this differs."""
    task, options, data = prepared.task, prepared.options, prepared.data
    chosen = {"method": prepared.method, "budget": budget, "compensate": prepared.refit}
    functions = {"loss_fn": task.loss_fn, "train": task.train, "forward": data.forward}
    held = [f"{fingerprint([tensor])} {index}" for index, tensor in task.graph.program.constants.items()]
    hashes = {
        "model": hash_model(task.model),
        "calibration data": {"calibration data": _hash_batches(task.batches)},
        "options": {**{name: hash_value(value) for name, value in chosen.items()}, **hash_options(options)},
        **{name: {name: hash_function(function)} for name, function in functions.items()},
        "versions": {name: versions()[name] for name in ("torch-mipp", "torch")},
    }
    outputs, losses = _first_outputs(task.model, task.batches[0], task.loss_fn)
    tolerance = max(_TOLERANCE, 8 * task.noise)
    return Identity(hashes, (*write_ops(task.graph.program), *held), outputs, losses, tolerance)


def hash_options(options: "Options") -> dict[str, str]:
    """Hashes of the options that a result depends on."""
    return {
        name: hash_value(getattr(options, name)) for name in ("recover", "memory_limit", "exclude", "seed", "effort")
    }


def hash_model(model: nn.Module) -> dict[str, str]:
    """Hashes of the weights of a model, and of what its layers are and hold besides."""
    state = {**state_of(model), **dict(model.named_buffers())}
    return {"weights": fingerprint(state.values(), *state), "layers": hash_modules(model)}


def write_ops(program: Program) -> list[str]:
    """The ops of a program with all that they received, an op a line, and what left the tensors for Python."""
    lines = []
    for op in program.ops:
        arguments = [*map(_write, op.args), *(f"{name}={_write(value)}" for name, value in op.kwargs.items())]
        seen = f" is {program.guards[op.index]}" if op.index in program.guards else ""
        lines.append(f"{op.name}({', '.join(arguments)}){seen}")
    return lines


def _write(argument: Any) -> str:
    """An argument of an op; a tensor as the number of its value."""
    if isinstance(argument, Ref):
        return f"%{argument.index}"
    if isinstance(argument, tuple | list):
        return f"[{', '.join(map(_write, argument))}]"
    plain = argument is None or isinstance(argument, str | bool | int | float | complex)
    known = plain or isinstance(argument, torch.dtype | torch.device | torch.layout | torch.memory_format)
    return repr(argument) if known else type(argument).__name__


def _hash_batches(batches: Any) -> str:
    def tensors() -> Iterator[Tensor]:
        for batch in batches:
            yield from tensors_in((batch.call, batch.labels))

    plain = [plain_in((batch.call.args, dict(batch.call.kwargs), batch.labels)) for batch in batches]
    return fingerprint(tensors(), repr(plain))


@torch.no_grad()
def _first_outputs(model: nn.Module, batch: Batch, loss_fn: Callable[..., Tensor] | None) -> tuple[Numbers, Numbers]:
    """Numbers that stand for the outputs of a model, and for the loss if it can be computed."""
    output = forward(working_copy(model), batch.call)
    losses: list[Tensor] = []
    if loss_fn is not None and batch.labels is not None:
        with suppress(Exception):  # a method that needs it says what is wrong
            losses = tensors_in(loss_fn(output, batch.labels))
    return summary(results_in(output)), summary(losses)
