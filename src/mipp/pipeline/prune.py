"""The whole library in one function: `prune`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mipp.data.calibration import Batches, Calibration, as_call, read
from mipp.errors import MippError
from mipp.graph.trees import tensors_in
from mipp.methods import MIPP, Method, Task, needs_of
from mipp.modules.copies import move, state_of
from mipp.modules.placement import device_of, place_model
from mipp.modules.wrappers import unwrap
from mipp.pipeline.checks import (
    check_deterministic,
    check_groups,
    check_method,
    check_option,
    check_weights,
    find_excluded,
    list_patterns,
    runs_in_parts,
)
from mipp.pipeline.finishing import Recovery, build
from mipp.pipeline.planning import example, proven_plan
from mipp.plan import Budget, PruningPlan, check_budget
from mipp.plan.cost import cost_of, latency_ms
from mipp.refit.distillation import Distillation
from mipp.refit.least_squares import Refit
from mipp.report import Inspection, Report
from mipp.report.layer_times import layer_times
from mipp.report.measuring import Clock, measures, report_on, versions
from mipp.runtime.default_device import own_default_device
from mipp.runtime.distributed import merge_shards
from mipp.runtime.progress import Bars
from mipp.runtime.tensor_store import Memory, format_bytes
from mipp.storage import folder as storage
from mipp.storage.checkpoint import Checkpoint
from mipp.storage.fingerprint import fingerprint, format_option, hash_function, numbers_of
from mipp.surgery import apply, describe, verified_graph

_OWN_WEIGHTS = "Nothing was refitted: {} returns weights of its own; compensate=mipp.Refit() refits them."
_NO_FLOAT64 = "Worked on the CPU: {} has no float64, which statistics and the proof of the cuts are computed in."
_WHOLE = (
    "Batches were taken whole: entries along the first dimension depend on each other, as in a time-first sequence or "
    "a graph. Samples, and MACs per sample, count such entries; give batch-first inputs if the model takes them."
)


@dataclass(frozen=True)
class Result:
    """What `prune` returns.

    Attributes:
        model: The smaller model, of the same class, on the same device, in the same dtype and training mode.
        plan: What was kept; can be saved and replayed.
        report: Numbers before and after; prints as a table.
        resumed: Whether the run went on from the checkpoint of an earlier one.
    """

    model: nn.Module
    plan: PruningPlan
    report: Report
    resumed: bool = False

    def __repr__(self) -> str:
        return str(self.report)

    def save(self, folder: str | Path) -> None:
        """Writes plan.json, model.safetensors, report.json and report.html to a new folder; `mipp.load` reads it.

        Raises:
            MippError: The folder exists and is not empty, or cannot be written.
        """
        storage.save(folder, self.plan, self.model, self.report)


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
        evaluate: `evaluate(model)` -> number or dict of numbers, called before and after, for the report. The model is
            in evaluation mode for the call, and in its own mode again afterwards.
        loss_fn: `loss_fn(output, labels) -> scalar`, for methods that need it.
        train: `train(model, *, fraction=1.0, after_step=None)`, for methods that need it: trains the model in place for
            that fraction of a whole training, and calls `after_step()` after each step of the optimiser.
        device: Where to work; by default where the model is, or on the CPU if there is no float64 there, as on Apple's
            GPUs. The result is on the device of `model`.
        seed: Seed of everything random.
        progress: Show progress on a terminal.
        checkpoint: Folder that records finished steps, so that an interrupted run can resume from it. A function counts
            as unchanged if its code and the numbers, strings and tensors it holds are; lists and dicts it holds are not
            compared.
        memory_limit: Bytes, or a string such as "2GB", for what is kept between passes: half for calibration data and
            activations (more goes to temporary files), half for statistics (wide layers get coarser ones, and a note).
            None is 4 GB, on every machine, so that plans do not depend on it. Model and one batch come on top.

    An autocast around the call is switched off inside it, for the functions you pass too: statistics are measured,
    and weights refitted, in the precision of the model.

    Raises:
        MippError: See `mipp.errors`; the model is untouched in any case.
    """
    return _results(
        model,
        calibration,
        [budget],
        method,
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
    )[0]


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
        A result per budget, in the order of the budgets.

    Raises:
        MippError: See `mipp.errors`; also for a budget that cannot be met, before anything is measured.
    """
    if options.get("checkpoint") is not None:
        raise MippError("frontier takes no checkpoint, which notes one run; call mipp.prune for each budget instead.")
    defaults = prune.__kwdefaults__ or {}
    if unknown := options.keys() - defaults.keys():
        raise MippError(f"frontier has no option {', '.join(sorted(unknown))}; expected {', '.join(defaults)}.")
    several = [budgets] if isinstance(budgets, Budget) else list(budgets)
    return _results(model, calibration, several, method, **{**defaults, **options})


def _results(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    budgets: Sequence[Budget | None],
    method: Method | None,
    *,
    exclude: Sequence[str],
    compensate: bool | Refit,
    recover: Recovery | None,
    evaluate: Callable[[nn.Module], float | Mapping[str, float]] | None,
    loss_fn: Callable[..., Tensor] | None,
    train: Callable[..., None] | None,
    device: torch.device | str | None,
    seed: int,
    progress: bool,
    checkpoint: str | Path | None,
    memory_limit: int | str | None,
) -> list[Result]:
    """The flow of `prune`: what serves all budgets, then all plans, then what is made of each."""
    model, memory, method = unwrap(model), Memory(memory_limit), MIPP() if method is None else method
    exclude = list_patterns(exclude)
    options = _options(budgets, method, compensate, recover)
    if not isinstance(seed, Integral):
        raise MippError(f"seed is {seed!r}; expected a whole number, from which all that is random is drawn.")
    data = Calibration.of(calibration)
    if data.sharded and recover is not None:
        raise MippError(
            f"recover={recover!r} trains in one process, and the calibration data are sharded over several. Leave one "
            "of the two out."
        )
    clock, planned, results = Clock(), [], []
    with _isolate(seed), merge_shards(data.sharded), Bars(enabled=progress) as bars:
        dense, home = place_model(model, device), device_of(model)
        check_weights(dense)
        batches = read(data, device_of(dense), memory.store, progress=bars, cuts=partial(runs_in_parts, dense))
        clock("read")
        with bars.phase("graph"):
            task = _task(dense, batches, exclude, loss_fn, train, seed, memory, bars)
            wanted, found = device or home, device_of(dense)
            if found is not None and found.type != torch.device(wanted).type:
                task.notes.append(_NO_FLOAT64.format(wanted))
            if compensate is True and needs_of(method).reweights:
                options = None
                task.notes.append(_OWN_WEIGHTS.format(type(method).__name__))
            timed = [budget for budget in budgets if budget and budget.latency_ms is not None]
            if timed:
                finest = min(timed, key=lambda budget: (budget.round_to, budget.min_keep))
                times = layer_times(dense, task.graph, batches[0].call, finest)
                task = replace(task, cost=cost_of(task.graph, times))
            for budget in budgets:
                check_budget(budget or Budget(), task.cost)
        clock("graph")
        with bars.phase("evaluation"):
            before = measures(model, {}, task, evaluate)
        clock("report")
        for budget in budgets:
            lap, own = Clock(clock.seconds), replace(task, notes=list(task.notes))
            with bars.phase("checkpoint"):
                store = _checkpoint(checkpoint, own, exclude, data, (method, budget, options, recover, memory_limit))
            own = replace(own, finished=store.finished) if store else own
            with _isolate(seed):
                made = proven_plan(own, method, budget or Budget(), find_excluded(dense, exclude), store)
            lap("selection")
            planned.append((store, *made, lap.seconds))
        for _, own, *_ in planned:
            own.measured.clear()
        given = {"exclude": exclude, "compensate": compensate, "recover": recover, "device": device, "seed": seed}
        changed = _non_defaults({**given, "memory_limit": memory_limit})
        for store, task, plan, weights, seconds in planned:
            lap = Clock(seconds)
            small = build(plan, weights, task, options, recover, store, lap)
            if home is not None:
                move(small, home)
            task.notes.extend(describe(small, plan))
            _note_sizes(task, data)
            with bars.phase("evaluation"):
                after = measures(small, plan.widths, task, evaluate)
            lap("report")
            report = report_on(model, task, plan, (before, after), lap.seconds, changed)
            results.append(Result(small, plan, report, store is not None and store.resumed))
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
            f"example is a {type(example).__name__} without tensors; expected one input, such as torch.randn(1, 3, 32, "
            "32)."
        )
    if call.samples == 0:
        raise MippError("example holds no samples (its first dimension is 0); expected one or more.")
    with _isolate(0):
        dense = place_model(model)
        if dense is not model:
            call = call.map(lambda tensor: tensor.to(device_of(dense)))
        graph = verified_graph(dense, call, find_excluded(dense, list_patterns(exclude)))
    return Inspection(type(model).__name__, graph, cost_of(graph))


def information(
    model: nn.Module, calibration: Calibration | Iterable[Any], method: MIPP | None = None, seed: int = 0
) -> dict[str, float]:
    """Estimates what every layer tells the next, I(X_l; X_l+1) in nats, by name of the group; prunes nothing.

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
    with _isolate(seed):
        model = place_model(model)
        check_weights(model)
        batches = read(Calibration.of(calibration), device_of(model), cuts=partial(runs_in_parts, model))
        return (method or MIPP()).information(
            _task(model, batches, (), None, None, seed, Memory(), Bars(enabled=False))
        )


def _options(budgets: Sequence[object], method: object, compensate: object, recover: object) -> Refit | None:
    """How to refit, None for not at all; refuses options of another type."""
    for budget in budgets:
        check_option("budget", budget, Budget, "a mipp.Budget such as mipp.Budget(macs=0.5)")
    check_option("compensate", compensate, bool | Refit, "True, False, or mipp.Refit(...)")
    check_method(method)
    if recover not in (None, "distill") and not isinstance(recover, Distillation):
        raise MippError(f"recover={recover!r} is unknown; expected 'distill', mipp.Distillation(...), or None.")
    if isinstance(compensate, Refit):
        return compensate
    return Refit() if compensate else None


def _non_defaults(options: Mapping[str, object]) -> dict[str, object]:
    """The options of `prune` that are not at their defaults."""
    defaults = prune.__kwdefaults__ or {}
    return {name: value for name, value in options.items() if value not in (defaults.get(name), [])}


def _task(
    model: nn.Module,
    batches: Batches,
    exclude: Sequence[str],
    loss_fn: Callable[..., Tensor] | None,
    train: Callable[..., None] | None,
    seed: int,
    memory: Memory,
    bars: Bars,
) -> Task:
    freeze = find_excluded(model, exclude)
    check_deterministic(model, example(batches))
    graph = verified_graph(model, example(batches), freeze)
    check_groups(model, graph)
    cost = cost_of(graph)

    def latency(widths: Mapping[str, int]) -> float:
        kept = {name: range(width) for name, width in widths.items()}
        return latency_ms(apply(PruningPlan.of(graph, model, kept), model), batches[0].call)

    return Task(model, graph, cost, batches, loss_fn, train, seed, latency, memory=memory, progress=bars)


def _note_sizes(task: Task, data: Calibration) -> None:
    """Says in the report whether batches were whole or samples fewer than asked for, and what went to files."""
    store, samples = task.memory.store, sum(batch.samples for batch in task.batches)
    if any(batch.whole for batch in task.batches):
        task.notes.append(_WHOLE)
    if data.max_samples is not None and samples < data.max_samples:
        task.notes.append(
            f"Calibrated on {samples:,} samples, all there were; max_samples allows {data.max_samples:,}."
        )
    if store.most_on_disk:
        task.notes.append(
            f"Up to {format_bytes(store.most_on_disk)} of calibration data and activations were in temporary files "
            f"at one time: memory_limit leaves {format_bytes(store.limit)} for them."
        )


@contextmanager
def _isolate(seed: int) -> Iterator[None]:
    """Runs a block with its own random state and default device, with gradients, in full precision.

    The caller's settings are as they were afterwards.
    """
    accelerator = torch.accelerator.current_accelerator() or torch.device("cuda")
    with ExitStack() as stack:
        for kind in filter(torch.is_autocast_enabled, ("cpu", accelerator.type)):
            # without the cache: it is emptied at the end of the outermost block, and weights are trained inside of it
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        stack.enter_context(own_default_device())
        devices = range(torch.accelerator.device_count())
        stack.enter_context(torch.random.fork_rng(devices, device_type=accelerator.type))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        torch.manual_seed(int(seed))
        yield


def _checkpoint(
    folder: str | Path | None, task: Task, exclude: Sequence[str], data: Calibration, options: tuple[object, ...]
) -> Checkpoint | None:
    """The checkpoint in a folder, under everything the result depends on."""
    if folder is None:
        return None
    state = {**state_of(task.model), **dict(task.model.named_buffers())}
    ops = [op.name for op in task.graph.program.ops]
    inputs = (t for batch in task.batches for t in tensors_in((batch.call, batch.labels)))
    found = {
        "model": fingerprint(state.values(), repr(task.model), numbers_of(task.model), *state, *ops),
        "calibration data": fingerprint(inputs),
        "options": fingerprint((), *map(format_option, options), repr(list(exclude)), str(task.seed)),
        "loss_fn": hash_function(task.loss_fn),
        "train": hash_function(task.train),
        "forward": hash_function(data.forward),
        "versions": fingerprint((), *(versions()[name] for name in ("torch-mipp", "torch"))),
    }
    return Checkpoint(folder, found)
