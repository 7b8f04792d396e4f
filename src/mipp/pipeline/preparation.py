"""Calibration data, the graph of the model with its costs, and the dense network measured: all that budgets share."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module

import torch
from torch import nn

from mipp.data.calibration import Batches, Calibration, read
from mipp.errors import MippError, quote
from mipp.graph.hints import BatchNormInput, PassEnded, trained_batch_norms
from mipp.graph.trace import forward
from mipp.methods.base import Method, needs_of
from mipp.modules.copies import working_copy
from mipp.modules.placement import device_of, place_model
from mipp.pipeline.checks import check_groups, check_method, check_option, check_weights, find_excluded
from mipp.pipeline.options import Options
from mipp.pipeline.passes import measure_noise, runs_in_parts
from mipp.pipeline.ranks import check_programs, check_ranks
from mipp.pipeline.stages import Prepared, example
from mipp.plan.allocation import check_budget
from mipp.plan.budget import Budget
from mipp.plan.cost import cost_of
from mipp.plan.plan import PruningPlan
from mipp.plan.registry import CONSTRAINTS
from mipp.plan.task import Task
from mipp.report.layer_times import layer_times
from mipp.report.measuring import Clock, measures
from mipp.runtime.progress import Bars
from mipp.runtime.record import Notes
from mipp.runtime.tensor_store import Memory
from mipp.surgery.cut import apply
from mipp.surgery.trials import verified_graph

_OWN_WEIGHTS = "Nothing was refitted: {} returns weights of its own; compensate=mipp.Refit() refits them."
_HALVES = (torch.float16, torch.bfloat16)
_IN_HALVES = "Weights are {}: statistics and refit are computed in float32 and float64, and the result is rounded."
_NO_FLOAT64 = "Worked on the CPU: {} has no float64, which statistics and the proof of the cuts are computed in."


def check_request(data: Calibration, budgets: Sequence[object], method: object, options: Options) -> None:
    """Refuses arguments that are of another type, or that exclude each other.

    Raises:
        MippError: They are.
    """
    for budget in budgets:
        check_option("budget", budget, Budget, "a mipp.Budget such as mipp.Budget(macs=0.5)")
    check_method(method)
    if data.sharded and options.recover is not None:
        raise MippError(
            f"recover={quote(options.recover)} trains in one process, and the calibration data are sharded over "
            "several. "
            "Leave one of the two out."
        )


def prepare(
    model: nn.Module, data: Calibration, budgets: Sequence[Budget], method: Method, options: Options, bars: Bars
) -> Prepared:
    """Reads the data, traces and measures the dense model.

    Raises:
        MippError: The model or the data will not do, or a budget cannot be met.
    """
    clock, memory = Clock(), Memory(options.memory_limit)
    dense = place_model(model, options.device)
    check_weights(dense)
    check_ranks(dense, data, budgets, method, options)
    batches = read(data, device_of(dense), memory.store, progress=bars, cuts=partial(runs_in_parts, dense))
    clock("read")
    with bars.phase("graph"):
        task = make_task(dense, batches, options, memory, bars, _runtime_of(budgets))
        wanted, found = options.device or device_of(model), device_of(dense)
        if wanted and found and found.type != torch.device(wanted).type:
            task.notes.append(_NO_FLOAT64.format(wanted))
        check_programs(task.graph.program, example(batches))
        halves = {str(p.dtype).removeprefix("torch.") for p in dense.parameters() if p.dtype in _HALVES}
        if halves:
            task.notes.append(_IN_HALVES.format(" and ".join(sorted(halves))))
        refit = options.refit
        if options.compensate is True and needs_of(method).reweights:
            refit = None
            task.notes.append(_OWN_WEIGHTS.format(type(method).__name__))
        task = _with_times(task, budgets)
        for budget in budgets:
            check_budget(budget, task.cost)
        task.notes.extend(_describe_shift(dense, task))
    clock("graph")
    with bars.phase("evaluation"):
        before = measures(model, {}, task, options.evaluate)
    clock("report")
    return Prepared(model, data, method, options, task, refit, before, bars, clock.seconds)


def _describe_shift(model: nn.Module, task: Task) -> list[str]:
    """A hint where the first trained batch norm reads other values than in training."""
    names = trained_batch_norms(model).values()
    if not names:
        return []
    batch, copied = task.batches[0], working_copy(model)
    norms = {copied.get_submodule(name): name for name in names}
    watch = BatchNormInput(norms)
    for norm in norms:
        norm.register_forward_pre_hook(watch)
    with suppress(PassEnded):
        forward(copied, batch.call if batch.whole else batch.call.part(0, 32))
    return [watch.sentence] if watch.sentence else []


def make_task(
    model: nn.Module, batches: Batches, options: Options, memory: Memory, bars: Bars, runtime: str = "torch"
) -> Task:
    """The task of pruning a model, on whatever device it is.

    Raises:
        MippError: The model will not do.
    """
    freeze = find_excluded(model, options.exclude)
    notes = Notes()
    noise = measure_noise(model, example(batches), notes)
    graph = verified_graph(model, example(batches), freeze)
    check_groups(model, graph)

    def measure(name: str, widths: Mapping[str, int]) -> float:
        kept, take = {group: range(width) for group, width in widths.items()}, CONSTRAINTS[name].measure
        assert take is not None
        return take(apply(PruningPlan.of(graph, model, kept), model), batches[0].call, runtime)

    return Task(
        model,
        graph,
        cost_of(graph),
        batches,
        options.loss_fn,
        options.train,
        options.seed,
        measure,
        notes,
        memory,
        bars,
        runtime,
        noise,
        effort=options.level,
    )


def _runtime_of(budgets: Sequence[Budget]) -> str:
    """The runtime in which latency is measured; that of ONNX adds itself to the table when it is imported."""
    runtimes = {budget.runtime for budget in budgets}
    if len(runtimes) > 1:
        raise MippError(f"The budgets are of several runtimes ({', '.join(sorted(runtimes))}); expected one for all.")
    if runtimes == {"onnxruntime"}:
        import_module("mipp.export.timing")
    return runtimes.pop()


def _with_times(task: Task, budgets: Sequence[Budget]) -> Task:
    """The task with measured times of its layers, if a budget limits them."""
    timed = [budget for budget in budgets if budget.estimated]
    if not timed:
        return task
    finest = min(timed, key=lambda budget: (budget.round_to, budget.min_keep))
    times = layer_times(task.model, task.graph, task.batches[0].call, finest)
    return replace(task, cost=cost_of(task.graph, times))
