"""Processes that prune together: they have to have the same model, program and options."""

from collections.abc import Mapping, Sequence

from torch import nn

from mipp.data.calibration import Calibration
from mipp.errors import MippError
from mipp.graph.call import Call
from mipp.graph.program import Program
from mipp.methods.base import Method
from mipp.pipeline.identity import hash_model, hash_options, write_ops
from mipp.pipeline.options import Options
from mipp.plan.budget import Budget
from mipp.runtime.distributed import gather, is_sharded
from mipp.storage.fingerprint import fingerprint, hash_function, hash_value

Hashes = Mapping[str, Mapping[str, str]]


def check_ranks(
    model: nn.Module, data: Calibration, budgets: Sequence[Budget], method: Method, options: Options
) -> None:
    """Refuses processes with different models or options, before anything is measured.

    Raises:
        MippError: They differ; it says which ranks and in what.
    """
    if not is_sharded():
        return
    shapes = repr([(name, tuple(p.shape), p.dtype) for name, p in model.named_parameters()])
    functions = {"loss_fn": options.loss_fn, "train": options.train, "forward": data.forward}
    chosen = {"method": method, "budget": list(budgets), "compensate": options.refit}
    _refuse_others(
        {
            "model": {"architecture": fingerprint((), type(model).__qualname__, shapes), **hash_model(model)},
            "options": {**hash_options(options), **{name: hash_value(value) for name, value in chosen.items()}},
            "functions": {name: hash_function(function) for name, function in functions.items()},
        }
    )


def check_programs(program: Program, call: Call) -> None:
    """Refuses processes whose models compute something else on inputs of the same form.

    Raises:
        MippError: They differ; it says which ranks and in what.
    """
    if not is_sharded():
        return
    form = repr((call.form, sorted(program.guards.items())))
    alike = gather(form)
    lines = write_ops(program) if all(one == alike[0] for one in alike) else [op.name for op in program.ops]
    constants = program.constants.values()
    _refuse_others({"model": {"forward pass": fingerprint(constants, *lines)}})


def _refuse_others(mine: Hashes) -> None:
    """Refuses processes that differ from the first."""
    all_of_them = gather(mine)
    found = []
    for rank, theirs in enumerate(all_of_them):
        for name, parts in all_of_them[0].items():
            if other := [part for part, value in parts.items() if theirs[name].get(part) != value]:
                found.append(f"rank {rank} in the {name} ({', '.join(other)})")
    if found:
        raise MippError(
            f"The processes that prune together differ from rank 0: {'; '.join(found)}. Their statistics cannot be "
            "merged: give all of them the same model with the same weights, and the same method, budget and options."
        )
