"""The report of a run: sizes, speed and quality before and after."""

import logging
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mipp.errors import MippError, quote
from mipp.modules.copies import full_copy
from mipp.modules.placement import device_of
from mipp.plan.budget import Budget
from mipp.plan.cost import Cost, group_macs
from mipp.plan.plan import PruningPlan
from mipp.plan.registry import CONSTRAINTS
from mipp.plan.task import Task
from mipp.report.data import FrozenLine, GroupLine, Measures, Report
from mipp.runtime.default_device import callers_default_device
from mipp.runtime.mistakes import border
from mipp.runtime.versions import versions

log = logging.getLogger(__name__)
_UNMEASURED: tuple[float | None, float | None] = (None, None)


class Clock:
    """Seconds by phase: each call adds the time since the last one to the phase it names.

    Args:
        seconds: Phases that are over.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})
        self._last = time.perf_counter()

    def __call__(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        log.info("%s: %.2f s", phase, now - self._last)
        self._last = now


def report_on(
    model: nn.Module,
    task: Task,
    plan: PruningPlan,
    measured: tuple[Measures, Measures],
    seconds: Mapping[str, float],
    options: Mapping[str, object],
) -> Report:
    """Collects what there is to say about the dense and the pruned model.

    Args:
        model: The dense model.
        task: What was pruned, with the notes.
        plan: What was kept.
        measured: The `measures` of the dense and of the pruned model.
        seconds: Seconds by phase.
        options: What else `prune` was called with, for the record of the call.
    """
    asked, more = ([f"{name}={value!r}" for name, value in some.items()] for some in (plan.budget, options))
    budget = f"mipp.Budget({', '.join(asked)})"
    kept = plan.widths
    macs = {n: group_macs(task.graph, w) for n, w in (("before", {}), ("after", kept))}
    groups = tuple(
        GroupLine(
            n,
            g.size,
            kept[n],
            *plan.information.get(n, _UNMEASURED),
            macs["before"][n],
            macs["after"][n],
            plan.sensitivity.get(n, ()),
            g.multiple,
        )
        for n, g in task.graph.groups.items()
    )
    return Report(
        model=type(model).__name__,
        method=plan.method,
        call=f"mipp.prune({', '.join(['model', 'calibration', budget, plan.method, *more])})",
        budget=dict(plan.budget),
        before=measured[0],
        after=measured[1],
        stages={},
        groups=groups,
        frozen=tuple(FrozenLine(f.name, f.nodes, f.reason, f.op, f.source) for f in task.graph.frozen),
        collapsed=plan.collapsed,
        notes=tuple(task.notes),
        slack=_slack(plan, task.cost),
        seconds=dict(seconds),
        versions=versions(),
    )


def measures(
    model: nn.Module,
    kept: Mapping[str, int],
    task: Task,
    evaluate: Callable[[nn.Module], float | Mapping[str, float]] | None,
) -> Measures:
    """Measures the dense or a pruned model.

    Args:
        model: The model.
        kept: Nodes it keeps, by group; groups not named are whole.
        task: What was pruned.
        evaluate: Called with a copy of the model, in evaluation mode.
    """
    score = _score(model, evaluate) if evaluate else {}
    metrics = dict(score) if isinstance(score, Mapping) else {"score": score}
    try:
        metrics = {name: float(value) for name, value in metrics.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise MippError(f"evaluate(model) returned {quote(score)}; expected a number, or a dict of numbers.") from error
    cost, call, device = task.cost, task.batches[0].call, device_of(model)
    call = call if device is None else call.map(lambda t: t.to(device))
    widths = cost.widths(kept)
    found: dict[str, Any] = {
        name: constraint.measure(model, call, task.runtime) if constraint.measure else cost.value(name, widths)
        for name, constraint in CONSTRAINTS.items()
    }
    whole = {name: round(value) for name, value in found.items() if CONSTRAINTS[name].is_whole}
    return Measures(**{**found, **whole}, metrics=metrics)


@border
def _score(
    model: nn.Module, evaluate: Callable[[nn.Module], float | Mapping[str, float]]
) -> float | Mapping[str, float]:
    """The quality of a model, of which the caller's function gets a copy: it may train, or leave hooks behind."""
    copied = full_copy(model)
    copied.eval()  # a statement of its own: an overridden eval() may return nothing
    with callers_default_device():
        return evaluate(copied)


def _slack(plan: PruningPlan, cost: Cost) -> dict[str, float]:
    budget, widths = Budget(**plan.budget), cost.widths(plan.widths)
    limits = budget.without(budget.estimated).limits(cost)
    return {name: (limit - cost.value(name, widths)) / cost.dense(name) for name, limit in limits.items()}


def machine() -> dict[str, Any]:
    """Processor, threads, accelerator and versions that something is measured with; no host names, no paths."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "threads": torch.get_num_threads(), "gpu": gpu, "versions": versions()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
