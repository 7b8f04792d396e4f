"""The stages of a run as data: what all budgets share, and what is planned for one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from mipp.data.calibration import Batch, Calibration
from mipp.graph.call import Call
from mipp.methods.base import Method
from mipp.pipeline.options import Options
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.settings import Refit
from mipp.report.data import Measures
from mipp.runtime.progress import Bars

if TYPE_CHECKING:
    from mipp.storage.checkpoint import Checkpoint


@dataclass(frozen=True)
class Prepared:
    """Data, graph and measures that all budgets share.

    Attributes:
        model: The caller's model.
        data: The caller's calibration data, which have been read.
        method: Chooses the nodes.
        options: How.
        task: The model where it is worked on, and what there is to prune it with.
        refit: How weights are refitted; None: not at all.
        before: The dense model measured.
        bars: Show how far it is.
        seconds: What it took so far, by phase.
    """

    model: nn.Module
    data: Calibration
    method: Method
    options: Options
    task: Task
    refit: Refit | None
    before: Measures
    bars: Bars
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Planned:
    """The dense model with its graph and plan under one budget.

    Attributes:
        plan: The nodes that stay.
        dense: The dense model, with the weights that the method left.
        task: What the plan was made from, with what the proof froze besides.
        store: The checkpoint, if there is one.
        seconds: What it took so far, by phase.
    """

    plan: PruningPlan
    dense: nn.Module
    task: Task
    store: "Checkpoint | None"
    seconds: Mapping[str, float]


def example(batches: Sequence[Batch]) -> Call:
    """The first two samples, where the batch can be cut."""
    first = batches[0]
    return first.call.part(0, 2) if first.divisible else first.call
