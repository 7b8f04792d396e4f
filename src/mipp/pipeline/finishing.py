"""From a plan to the smaller network and its report: cut, refitted, recovered, measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from mipp.data.calibration import Calibration
from mipp.errors import UnsupportedModelError
from mipp.modules.copies import all_finite, move
from mipp.modules.placement import device_of
from mipp.pipeline.stages import Planned, Prepared
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.distillation import distill
from mipp.refit.least_squares import refit
from mipp.refit.settings import Distillation, Refit
from mipp.report.data import Report
from mipp.report.measuring import Clock, measures, report_on
from mipp.runtime.record import WARNING
from mipp.runtime.tensor_store import format_bytes
from mipp.storage import folder as storage
from mipp.surgery.cut import apply
from mipp.surgery.huggingface import update_config

_WHOLE = (
    "Batches were taken whole: entries along the first dimension depend on each other, as in a time-first sequence or "
    "a graph. Samples, and MACs per sample, count such entries; give batch-first inputs if the model takes them."
)
Built = tuple[nn.Module, list[str]]
"""A network, and sentences for the report."""


@dataclass(frozen=True)
class Result:
    """The smaller network, with the plan and the report.

    Attributes:
        model: The smaller model, of the same class, on the same device, in the same dtype and training mode.
        plan: What was kept; can be saved and replayed.
        report: Numbers before and after; prints as a table.
        resumed: True if the run went on from the checkpoint of an earlier one.
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


def finish(prepared: Prepared, planned: Planned) -> Result:
    """Builds the network that a plan leaves, measures it and reports."""
    plan, task, lap = planned.plan, planned.task, Clock(planned.seconds)
    small = _build(prepared, planned, lap)
    home = device_of(prepared.model)
    if home is not None:
        move(small, home)
    task.notes.extend(update_config(small, plan))
    _note_sizes(task, prepared.data)
    with prepared.bars.phase("evaluation"):
        after = measures(small, plan.widths, task, prepared.options.evaluate)
    lap("report")
    measured, record = (prepared.before, after), prepared.options.record()
    report = report_on(prepared.model, task, plan, measured, lap.seconds, record)
    return Result(small, plan, report, planned.store is not None and planned.store.resumed)


def _build(prepared: Prepared, planned: Planned, lap: Clock) -> nn.Module:
    """Cuts, refits and recovers; `lap` is told when a step is over."""
    plan, dense, task = planned.plan, planned.dense, planned.task
    small = apply(plan, dense)
    if prepared.refit is not None:
        small = _take_step(planned, "compensated", small, partial(_refit, small, dense, plan, task, prepared.refit))
        lap("compensation")
    how = prepared.options.distillation
    if how is not None:
        small = _take_step(planned, "recovered", small, partial(_recover, planned, small, how))
        lap("recovery")
    return small


def _take_step(planned: Planned, step: str, small: nn.Module, make: Callable[[], Built]) -> nn.Module:
    """The network after a step: from the checkpoint, else as `make` returns it."""
    store = planned.store
    notes = store.fill(step, small) if store else None
    if notes is None:
        small, notes = make()
        if store:
            store.save_model(step, small, notes)
    planned.task.notes.extend(notes)
    return small


def _refit(small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, options: Refit) -> Built:
    """Refits; where that cannot be done the model stays as cut, and a warning says why."""
    obstacle = task.graph.program.not_replayable
    if not obstacle:
        try:
            notes = refit(small, dense, plan, task, options)
        except UnsupportedModelError as error:
            obstacle = str(error)
        else:
            if all(map(all_finite, small.parameters())):
                return small, notes
            obstacle = "the refitted weights were not finite"
    return apply(plan, dense), [f"{WARNING}Nothing was refitted: {obstacle}."]


def _recover(planned: Planned, small: nn.Module, options: Distillation) -> Built:
    with planned.task.notes.apart() as said:
        before, after = distill(small, planned.dense, planned.plan, planned.task, options, planned.store)
    return small, [*said, f"Distillation took the held-out loss from {before:.4g} to {after:.4g}."]


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
