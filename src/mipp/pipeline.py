"""The whole library in one function: `prune`."""

import glob
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from mipp import storage
from mipp.calibration import Batch, Calibration, as_call, read
from mipp.compensation import Refit, refit
from mipp.cost import Cost, cost_of, group_macs, latency_ms
from mipp.errors import CalibrationError, MippError, UnsupportedModelError
from mipp.graph.axes import Reason
from mipp.graph.groups import PruningGraph
from mipp.graph.trace import Call, full_copy, modes_kept
from mipp.memory import Memory, written
from mipp.methods import MIPP, Method, Task
from mipp.plan import Budget, PruningPlan, known
from mipp.recovery import distill
from mipp.report import FrozenLine, GroupLine, Inspection, Measures, Report
from mipp.surgery import apply, verified_graph, wrong_groups

log = logging.getLogger(__name__)
_UNPROVEN = Reason("cutting it did not equal masking it")
_UNMEASURED: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Result:
    """What `prune` returns.

    Attributes:
        model: The smaller model, of the same class, on the same device, in the same dtype and training mode.
        plan: What was kept; can be saved and replayed.
        report: Numbers before and after; prints as a table.
        resumed: Whether a checkpoint was used.
    """

    model: nn.Module
    plan: PruningPlan
    report: Report
    resumed: bool = False

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
    recover: Literal["distill"] | None = None,
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
        model: Any module; never modified.
        calibration: Iterable of batches, or `mipp.Calibration`. Read once, no labels needed for MIPP.
        budget: What must hold afterwards, such as `mipp.Budget(macs=0.5)`.
        method: How nodes are chosen; `mipp.methods.MIPP()` by default.
        exclude: Names or globs of modules whose nodes stay, such as "head" or "layer4.*".
        compensate: Refit the weights that read removed nodes, by least squares; `mipp.Refit(...)` sets how.
        recover: "distill" goes on with a short distillation from the dense model on the same unlabelled data (at most a
            minute, held-out batches decide, never worse than before).
        evaluate: `evaluate(model)` -> number or dict of numbers, called before and after, for the report.
        loss_fn: `loss_fn(output, labels) -> scalar`, for methods that need it.
        train: `train(model, *, fraction=1.0, after_step=None)`, for methods that need it.
        device: Where to work; by default where the model is.
        seed: Seed of everything random.
        progress: Show progress on a terminal.
        checkpoint: Folder from which an interrupted run goes on.
        memory_limit: Bytes, or a string such as "2GB", for what is kept between passes: half for calibration data and
            activations (more goes to temporary files), half for statistics (wide layers get coarser ones, and a note).
            None is 4 GB, on every machine, so that plans do not depend on it. Model and one batch come on top.

    Raises:
        MippError: See `mipp.errors`; the model is untouched in any case.
    """
    if recover not in (None, "distill"):
        raise MippError(f"recover={recover!r} is unknown; expected 'distill' or None.")
    model, memory = _unwrapped(model), Memory(memory_limit)
    clock = _Clock()
    with _isolated(seed):
        dense = _placed(model, device)
        _check_weights(dense)
        batches = read(_as_calibration(calibration), _device_of(dense), memory.store)
        clock("read")
        task = _task(dense, batches, exclude, loss_fn, train, seed, memory, _progress(enabled=progress))
        clock("graph")
        method = method or MIPP()
        for name in budget.widths if budget else ():
            known(name, task.graph.groups, "group")
        store = _checkpoint(checkpoint, task, method, budget, exclude)
        if store is not None:
            task = replace(task, finished=store.steps())
        begun = bool(task.finished)
        task, plan, dense, resumed = _proven_plan(task, method, budget or Budget(), exclude, store)
        clock("selection")
        small = apply(plan, dense)
        if compensate:
            small = _compensated(small, dense, plan, task, compensate if isinstance(compensate, Refit) else Refit())
        clock("compensation")
        if recover is not None:
            _recover(small, dense, task)
            clock("recovery")
        small = _like(small, model)
        _note_disk(task)
        report = _report(model, small, task, plan, evaluate, clock)
    return Result(small, plan, report, resumed or begun)


def inspect(model: nn.Module, example: Any, exclude: Sequence[str] = ()) -> Inspection:
    """Finds what can be pruned from a model, and what cannot and why.

    Args:
        model: Any module; never modified.
        example: One input: a Tensor; a tuple of positional arguments; a dict of keyword arguments.
        exclude: Names or globs of modules whose nodes stay.
    """
    model = _unwrapped(model)
    with _isolated(0):
        graph = verified_graph(model, as_call(example), _excluded(model, exclude))
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
    model = _unwrapped(model)
    with _isolated(seed):
        _check_weights(model)
        batches = read(_as_calibration(calibration), _device_of(model))
        return (method or MIPP()).information(
            _task(model, batches, (), None, None, seed, Memory(), _progress(enabled=False))
        )


def _task(
    model: nn.Module,
    batches: Sequence[Batch],
    exclude: Sequence[str],
    loss_fn: Callable[..., Tensor] | None,
    train: Callable[..., None] | None,
    seed: int,
    memory: Memory,
    progress: Callable[..., Any],
) -> Task:
    graph = verified_graph(model, _example(batches), _excluded(model, exclude))
    _require_groups(model, graph)
    cost = cost_of(graph)

    def latency(widths: Mapping[str, int]) -> float:
        kept = {name: range(width) for name, width in widths.items()}
        return latency_ms(apply(PruningPlan.of(graph, model, kept), model), batches[0].call)

    return Task(model, graph, cost, batches, loss_fn, train, seed, latency, memory=memory, progress=progress)


def _require_groups(model: nn.Module, graph: PruningGraph) -> None:
    if not graph.groups:
        reasons = "; ".join(f"{f.name}: {f.reason}" for f in graph.frozen[:5]) or "it has no layers with weights"
        raise UnsupportedModelError(
            f"Nothing in {type(model).__name__} can be pruned ({reasons}). mipp.inspect(model, example) lists all."
        )


def _compensated(small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, options: Refit) -> nn.Module:
    """Refits; where that cannot be done the model stays as cut and a note says why."""
    obstacle = task.graph.program.not_replayable
    if not obstacle:
        try:
            notes = refit(small, dense, plan, task.graph, task.batches, options, task.progress, task.memory)
        except UnsupportedModelError as error:
            obstacle = str(error)
        else:
            if all(bool(torch.isfinite(p).all()) for p in small.parameters()):
                task.notes.extend(notes)
                return small
            obstacle = "the refitted weights were not finite"
    task.notes.append(f"Nothing was refitted: {obstacle}.")
    return apply(plan, dense)


def _recover(small: nn.Module, dense: nn.Module, task: Task) -> None:
    before, after = distill(small, dense, task.batches, seed=task.seed, store=task.memory.store)
    task.notes.append(f"Distillation took the held-out loss from {before:.4g} to {after:.4g}.")


def _note_disk(task: Task) -> None:
    """Says in the report how much went to temporary files."""
    store = task.memory.store
    if store.most_on_disk:
        task.notes.append(
            f"Up to {written(store.most_on_disk)} of calibration data and activations were in temporary files at one "
            f"time: memory_limit leaves {written(store.limit)} for them."
        )


def _proven_plan(
    task: Task, method: Method, budget: Budget, exclude: Sequence[str], store: storage.Checkpoint | None
) -> tuple[Task, PruningPlan, nn.Module, bool]:
    """Plans, and proves the plan: groups whose cut differs from their mask are frozen, and it plans anew."""
    earlier = store.load() if store else None
    if earlier is not None:
        plan, state = earlier
        unknown = [name for name in task.graph.groups if name not in plan.groups]
        if unknown:  # frozen by the proof of the run that made the plan
            frozen = _excluded(task.model, exclude) | _names_of(task.graph, unknown, _UNPROVEN)
            task = _with_graph(task, frozen)
        return task, plan, task.model if state is None else _with_state(task.model, state), True
    freeze = _excluded(task.model, exclude)
    while True:
        made = method.plan(task, budget)
        plan, state = made if isinstance(made, tuple) else (made, None)
        dense = task.model if state is None else _with_state(task.model, state)
        wrong = wrong_groups(plan, dense, _example(task.batches))
        if not wrong:
            break
        freeze = _grown(freeze, _names_of(task.graph, wrong, _UNPROVEN), wrong)
        task = _with_graph(task, freeze)
    if store:
        store.save(plan, state)
    return task, plan, dense, False


def _with_graph(task: Task, freeze: dict[str, Reason]) -> Task:
    graph = verified_graph(task.model, _example(task.batches), freeze)
    _require_groups(task.model, graph)
    return replace(task, graph=graph, cost=cost_of(graph))


def _grown(freeze: dict[str, Reason], more: dict[str, Reason], groups: Sequence[str]) -> dict[str, Reason]:
    """Adds names to freeze; with nothing to add the same groups would fail for ever."""
    if more.keys() <= freeze.keys():
        raise UnsupportedModelError(
            f"Cutting {', '.join(groups[:5])} does not equal masking it, and freezing it does not help. Please "
            "report the model, and meanwhile exclude the modules that read it."
        )
    return freeze | more


def _names_of(graph: PruningGraph, groups: Iterable[str], reason: Reason) -> dict[str, Reason]:
    found: dict[str, Reason] = {}
    for group in (graph.groups[name] for name in groups):
        found |= {glob.escape(owner): reason for owner in group.producers or group.consumers}
    return found


def _excluded(model: nn.Module, patterns: Sequence[str]) -> dict[str, Reason]:
    names = [name for name, _ in model.named_modules() if name]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, 1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Its modules are {', '.join(names[:8])} ..."
            raise MippError(f"exclude names '{pattern}', but {type(model).__name__} has no such module.{hint}")
    listed = [patterns] if isinstance(patterns, str) else patterns
    return {p: Reason("excluded by the caller") for pattern in listed for p in (pattern, f"{pattern}.*")}


def _report(
    model: nn.Module,
    small: nn.Module,
    task: Task,
    plan: PruningPlan,
    evaluate: Callable[[nn.Module], float | Mapping[str, float]] | None,
    clock: "_Clock",
) -> Report:
    kept, cost, call = plan.widths, task.cost, task.batches[0].call
    macs = {n: group_macs(task.graph, w) for n, w in (("before", {}), ("after", kept))}
    groups = tuple(
        GroupLine(n, g.size, kept[n], *plan.information.get(n, _UNMEASURED), macs["before"][n], macs["after"][n])
        for n, g in task.graph.groups.items()
    )
    before = _measures(model, cost, {}, evaluate, call)
    after = _measures(small, cost, kept, evaluate, call)
    clock("report")
    return Report(
        model=type(model).__name__,
        method=plan.method,
        call=f"mipp.prune(model, calibration, {_written(plan.budget)}, {plan.method})",
        budget=dict(plan.budget),
        before=before,
        after=after,
        stages={},
        groups=groups,
        frozen=tuple(FrozenLine(f.name, f.nodes, f.reason, f.op, f.source) for f in task.graph.frozen),
        collapsed=plan.collapsed,
        notes=tuple(task.notes),
        slack=_slack(plan, cost),
        seconds=clock.seconds,
        versions=versions(),
    )


def _measures(
    model: nn.Module,
    cost: Cost,
    kept: Mapping[str, int],
    evaluate: Callable[[nn.Module], float | Mapping[str, float]] | None,
    call: Call,
) -> Measures:
    with modes_kept(model):
        score = evaluate(model) if evaluate else {}
    metrics = dict(score) if isinstance(score, Mapping) else {"score": float(score)}
    widths, device = cost.widths(kept), _device_of(model)
    return Measures(
        params=sum(p.numel() for p in model.parameters()),
        macs=round(cost.value("macs", widths)),
        nodes=sum(kept.values()) if kept else int(cost.sizes.sum()),
        latency_ms=latency_ms(model, call if device is None else call.map(lambda t: t.to(device))),
        metrics={name: float(value) for name, value in metrics.items()},
    )


def _slack(plan: PruningPlan, cost: Cost) -> dict[str, float]:
    limits = Budget(**plan.budget).limits(cost)
    widths = cost.widths(plan.widths)
    return {name: (limit - cost.value(name, widths)) / cost.dense(name) for name, limit in limits.items()}


def _written(budget: Mapping[str, Any]) -> str:
    return f"mipp.Budget({', '.join(f'{k}={v!r}' for k, v in budget.items())})"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("torch-mipp", "torch", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


class _Clock:
    """Seconds by phase: each call closes the phase it names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def _progress(*, enabled: bool) -> Callable[..., Any]:
    console = Console(stderr=True)

    def wrap(items: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
        if not enabled or not console.is_terminal:
            return items
        return track(items, what, total, console=console, transient=True)

    return wrap


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Runs a block on its own random state and leaves the global one as it was."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _as_calibration(data: Calibration | Iterable[Any]) -> Calibration:
    return data if isinstance(data, Calibration) else Calibration(data)


def _check_weights(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            raise CalibrationError(
                f"The weights hold NaN or infinite values in '{name}'; pass a model that trained well."
            )


def _unwrapped(model: nn.Module) -> nn.Module:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module  # type: ignore[no-any-return]
    original = getattr(model, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else model


def _placed(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    if device is None or _device_of(model) == torch.device(device):
        return model
    return full_copy(model).to(device)


def _like(small: nn.Module, model: nn.Module) -> nn.Module:
    device = _device_of(model)
    return small.to(device) if device is not None else small


def _device_of(model: nn.Module) -> torch.device | None:
    return next((t.device for t in [*model.parameters(), *model.buffers()]), None)


def _with_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    other = full_copy(model)
    other.load_state_dict(state)
    return other


def _example(batches: Sequence[Batch]) -> Call:
    """The first two samples, where the batch can be cut."""
    call, samples = batches[0].call, batches[0].samples
    if any(t.ndim == 0 or t.shape[0] != samples for t in call.tensors) or call.how is not None:
        return call
    return call.map(lambda t: t[:2])


def _checkpoint(
    folder: str | Path | None, task: Task, method: Method, budget: Budget | None, exclude: Sequence[str]
) -> storage.Checkpoint | None:
    if folder is None:
        return None
    weights = (t.detach() for t in [*task.model.parameters(), *task.model.buffers()])
    tensors = chain(weights, (t for batch in task.batches for t in batch.call.tensors))
    options = (repr(method), repr(budget), repr(list(exclude)), str(task.seed))
    return storage.Checkpoint(folder, storage.fingerprint(tensors, *options))
