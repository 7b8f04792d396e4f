"""The whole library in one function: `prune`."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mipp.data.calibration import Calibration, as_call, describe_plain, hint_at_plain, read
from mipp.errors import MippError, quote
from mipp.methods.base import Method
from mipp.methods.mipp.mipp import MIPP
from mipp.modules.placement import device_of, place_model
from mipp.modules.wrappers import unwrap
from mipp.pipeline.checks import (
    check_method,
    check_option,
    check_seed,
    check_weights,
    find_excluded,
    list_patterns,
)
from mipp.pipeline.finishing import Result, finish
from mipp.pipeline.isolation import isolate
from mipp.pipeline.options import Options
from mipp.pipeline.passes import runs_in_parts
from mipp.pipeline.planning import make_plan, open_checkpoint
from mipp.pipeline.preparation import check_request, make_task, prepare
from mipp.plan.budget import Budget
from mipp.plan.cost import cost_of
from mipp.refit.settings import Distillation, Refit
from mipp.report.inspection import Inspection
from mipp.runtime.distributed import merge_shards
from mipp.runtime.mistakes import admit_mistakes
from mipp.runtime.progress import Bars
from mipp.runtime.record import warnings_of
from mipp.runtime.tensor_store import Memory
from mipp.surgery.trials import verified_graph

__all__ = ["Result", "frontier", "information", "inspect", "prune"]

log = logging.getLogger(__name__)


def prune(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    budget: Budget | None = None,
    method: Method | None = None,
    *,
    exclude: Sequence[str] = (),
    compensate: bool | Refit = True,
    recover: Literal["distill"] | Distillation | None = None,
    evaluate: Callable[[nn.Module], float | Mapping[str, float]] | None = None,
    loss_fn: Callable[..., Tensor] | None = None,
    train: Callable[..., None] | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    memory_limit: int | str | None = None,
    effort: Literal["fast", "default", "best"] = "default",
) -> Result:
    """Returns a smaller network that keeps as much as it can of what each layer tells the next.

    Args:
        model: Any module; never modified. Its hooks run in the copies that are measured, and the result has them.
        calibration: Iterable of batches, or `mipp.Calibration`. Read once, no labels needed for MIPP. The first
            dimension of inputs is that of samples where these are independent; else batches are taken whole.
        budget: What must hold afterwards, such as `mipp.Budget(macs=0.5)`.
        method: How nodes are chosen; `mipp.methods.MIPP()` by default.
        exclude: Names or globs of modules whose nodes stay, such as "head" or "layer4.*"; a name includes all modules
            inside it, and nodes shared with other layers stay there too.
        compensate: Refit the weights downstream of removed nodes by least squares; `mipp.Refit(...)` sets how. True
            leaves weights that the method itself made (IMP, OTO, the controls) as they are.
        recover: "distill" goes on with a short distillation from the dense model on the same unlabelled data (at most a
            minute; kept only where it is nearer to the dense model on held-out batches); `mipp.Distillation(...)` sets
            how long and fast.
        evaluate: `evaluate(model)` -> number or dict of numbers, called before and after, for the report. It gets a
            copy of the model, in evaluation mode: what it changes there is lost.
        loss_fn: `loss_fn(output, labels) -> scalar`, for methods that need it.
        train: `train(model, *, fraction=1.0, after_step=None)`, for methods that need it: trains the model in place for
            that fraction of a whole training, and calls `after_step()` after each step of the optimiser.
        device: Where to work; by default where the model is, or on the CPU if there is no float64 there, as on Apple's
            GPUs. The result is on the device of `model`.
        seed: Seed of everything random.
        progress: Show progress on a terminal.
        checkpoint: Folder that records finished steps, so that an interrupted run can resume from it; one run at a time
            holds it. A run is the same if model, data, options, functions and versions are: the ops of a forward pass
            with all that they receive, and its outputs, are compared too. A function counts as unchanged if its code
            and the numbers, strings and tensors are that it holds or refers to; lists and dicts are not compared.
        memory_limit: Bytes, or a string such as "2GB", for what is kept between passes: half for calibration data and
            activations (more goes to temporary files), half for statistics (wide layers get coarser ones, and a note).
            None is 4 GB, on every machine, so that plans do not depend on it. Model and one batch come on top.
        effort: "fast" reads 256 samples, and refits layers to fewer rows, without images that are shifted;
            "best" reads 4,096 samples. By default 1,024 are read. A `mipp.Calibration` says itself how many, and the
            method and `mipp.Refit` may say the rest: they win.

    An autocast around the call is switched off inside it, for the functions you pass too: statistics are measured,
    and weights refitted, in the precision of the model.

    Raises:
        MippError: See `mipp.errors`; the model is untouched in any case.
    """
    options = Options(
        exclude=exclude,
        compensate=compensate,
        recover=recover,
        evaluate=evaluate,
        loss_fn=loss_fn,
        train=train,
        device=device,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
        memory_limit=memory_limit,
        effort=effort,
    )
    return _prune(model, calibration, [budget], method, options)[0]


def frontier(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    budgets: Iterable[Budget] | Budget,
    method: Method | None = None,
    **options: Any,
) -> list[Result]:
    """Prunes to several budgets from one set of statistics: the curve of accuracy against size.

    The data are read once, and what a method measures of the dense network serves every budget; each result is the one
    that `prune` gives for its budget.

    Args:
        model: As for `prune`.
        calibration: As for `prune`.
        budgets: What must hold in each of the results.
        method: As for `prune`.
        options: Options of `prune` except `checkpoint`, which records a single run.

    Returns:
        A result per budget, in the order of the budgets; each report has the whole curve.

    Raises:
        MippError: See `mipp.errors`; also for a budget that cannot be met, before anything is measured.
    """
    if options.get("checkpoint") is not None:
        raise MippError("frontier takes no checkpoint, which notes one run; call mipp.prune for each budget instead.")
    known = [field.name for field in fields(Options)]
    if unknown := options.keys() - set(known):
        raise MippError(f"frontier has no option {', '.join(sorted(unknown))}; expected {', '.join(known)}.")
    listed = isinstance(budgets, Iterable) and not isinstance(budgets, Tensor | str)
    several = [budgets] if isinstance(budgets, Budget) else list(budgets) if listed else []
    if not several:
        raise MippError(f"budgets is {quote(budgets)}; expected budgets such as [mipp.Budget(macs=0.5)].")
    results = _prune(model, calibration, several, method, Options(**options))
    curve = tuple(result.report.point for result in results)
    return [replace(result, report=replace(result.report, frontier=curve)) for result in results]


def _prune(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    budgets: Sequence[Budget | None],
    method: Method | None,
    options: Options,
) -> list[Result]:
    """Prepares what serves all budgets, makes all plans, then builds each network and reports on it."""
    model, data = unwrap(model), Calibration.of(calibration, options.level.samples)
    method, targets = MIPP() if method is None else method, [Budget() if b is None else b for b in budgets]
    with admit_mistakes(), isolate(options.seed), merge_shards(data.sharded), Bars(enabled=options.progress) as bars:
        check_request(data, targets, method, options)
        prepared = prepare(model, data, targets, method, options, bars)
        with open_checkpoint(prepared, targets[0]) as store:  # which a single run has
            planned = [make_plan(prepared, budget, store) for budget in targets]
            for task in (prepared.task, *(one.task for one in planned)):
                task.measured.forget()
            prepared.task.memory.store.give_back()
            results = [finish(prepared, one) for one in planned]
    for result in results:
        for warning in result.report.warnings:
            warnings.warn(warning, stacklevel=3)
    return results


def inspect(model: nn.Module, example: Any, exclude: Sequence[str] = ()) -> Inspection:
    """Finds what can be pruned from a model, and what cannot and why.

    Args:
        model: Any module; never modified.
        example: One input: a Tensor; a tuple of positional arguments; a dict of keyword arguments.
        exclude: Names or globs of modules whose nodes stay.

    Returns:
        What there is to prune: `groups`, `frozen`, `macs` (of one sample), `params`, `num_nodes`; prints as a table.

    Raises:
        UnsupportedModelError: The model does not run on the example, or cannot be traced.
        MippError: `example` holds no tensor, or `exclude` names no module.
    """
    model, call = unwrap(model), as_call(example)
    if not call.tensors:
        raise MippError(
            f"example is {describe_plain(example)}, without tensors; expected one input, such as torch.randn(1, 3, 32, "
            f"32). {hint_at_plain(example)}"
        )
    if call.samples == 0:
        raise MippError("example holds no samples (its first dimension is 0); expected one or more.")
    with admit_mistakes(), isolate(0):
        dense = place_model(model)
        if dense is not model:
            call = call.map(lambda tensor: tensor.to(device_of(dense)))
        graph = verified_graph(dense, call, find_excluded(dense, list_patterns(exclude)))
    return Inspection(type(model).__name__, graph, cost_of(graph))


def information(
    model: nn.Module, calibration: Calibration | Iterable[Any], method: MIPP | None = None, seed: int = 0
) -> dict[str, float]:
    """Estimates what every layer tells the next, I(X_l; X_l+1) in nats, by name of the group; prunes nothing.

    Warnings are issued as by `prune`; the other notes that a report would have are logged, at the level INFO.

    Args:
        model: Dense or pruned; never modified.
        calibration: As for `prune`.
        method: Its estimator, target and noise are used; `mipp.methods.MIPP()` by default.
        seed: Seed of estimators that draw random numbers.

    Raises:
        MippError: See `mipp.errors`.
    """
    model = unwrap(model)
    check_option("method", method, MIPP, "mipp.methods.MIPP(), whose estimator is used")
    data = Calibration.of(calibration)
    check_method(method or MIPP())
    check_seed(seed)
    with admit_mistakes(), isolate(seed), merge_shards(data.sharded):
        model = place_model(model)
        check_weights(model)
        batches = read(data, device_of(model), cuts=partial(runs_in_parts, model))
        task = make_task(model, batches, Options(seed=seed), Memory(), Bars(enabled=False))
        found = (method or MIPP()).information(task)
    for warning in warnings_of(task.notes):
        warnings.warn(warning, stacklevel=2)
    for note in task.notes:  # there is no report to read them in
        log.info(note)
    return found
