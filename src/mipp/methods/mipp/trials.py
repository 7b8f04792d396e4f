"""Widths by trial: part of the budget moves between groups while the pruned network comes nearer to the dense one.

Information says what a layer loses to the next. What that does to the outputs depends on what later layers repair, and
on how much the outputs care; no curve of one group knows, but a short refit and a comparison of outputs do.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from mipp.data.calibration import Batch
from mipp.errors import CalibrationError, UnsupportedModelError
from mipp.graph.nodes import PruningGraph
from mipp.graph.trace import forward
from mipp.plan import PruningPlan
from mipp.plan.elimination import Elimination
from mipp.refit.least_squares import Refit, refit
from mipp.refit.losses import floating, output_loss
from mipp.runtime.distributed import gather
from mipp.runtime.progress import Progress, silent
from mipp.runtime.tensor_store import Memory
from mipp.surgery import apply

Widths = dict[str, int]
_STEPS = (1.5, 3.0)


def search(
    curves: Mapping[str, Elimination],
    allocated: Callable[[Mapping[str, Elimination]], Widths],
    distance: Callable[[Widths], float],
    trials: int,
    generator: torch.Generator,
    progress: Progress = silent,
) -> Widths:
    """Finds widths under the same budget that bring the pruned network nearer to the dense one.

    In a trial the losses of one group count more and those of another less, by a factor, and the budget is spread anew.
    What comes nearer stays, and the same step is tried again; else two other groups are drawn.

    Args:
        curves: Order and loss of the removals, by group.
        allocated: Spreads the budget over such curves.
        distance: How far a network of these widths is from the dense one.
        trials: Calls of `distance`, at most, besides that for the first widths.
        generator: Draws groups and factors.
        progress: Wraps the trials to show how far the search is.
    """
    factors = dict.fromkeys(curves, 1.0)
    widths = allocated(curves)
    if len(curves) < 2:
        return widths
    nearest, seen, step = distance(widths), [widths], None
    for _ in progress(range(trials), "trials"):
        step = step or _draw(list(curves), generator)
        tried = {name: factor * step.get(name, 1.0) for name, factor in factors.items()}
        found = allocated({name: _scale(curve, tried[name]) for name, curve in curves.items()})
        reached = distance(found) if found not in seen else math.inf
        seen.append(found)
        if reached < nearest:
            factors, widths, nearest = tried, found, reached
        else:
            step = None
    return widths


def _draw(names: Sequence[str], generator: torch.Generator) -> dict[str, float]:
    dearer, cheaper = torch.randperm(len(names), generator=generator)[:2].tolist()
    factor = _STEPS[int(torch.randint(len(_STEPS), (1,), generator=generator))]
    return {names[dearer]: factor, names[cheaper]: 1 / factor}


def _scale(curve: Elimination, factor: float) -> Elimination:
    return Elimination(curve.order, tuple(factor * loss for loss in curve.loss))


class Distance:
    """How far pruned networks are from the dense one: refitted on half of the batches, compared on the other half.

    Args:
        model: The dense model.
        graph: Its pruning graph.
        batches: Unlabelled calibration batches.
        memory: Where activations are kept.

    Raises:
        CalibrationError: There are fewer than two batches.
    """

    options = Refit(ridge=1e-3, positions=16, variations=0)

    def __init__(self, model: nn.Module, graph: PruningGraph, batches: Sequence[Batch], memory: Memory) -> None:
        if len(batches) < 2:
            raise CalibrationError(
                "Trials need two calibration batches, one to refit on and one to compare on, but there is only "
                f"{len(batches)}. Pass more or smaller batches, or MIPP(trials=0)."
            )
        self.model, self.graph, self.memory = model, graph, memory
        self.known, self.held = batches[::2], batches[1::2]
        self.said = [floating(forward(model, batch.call)) for batch in self.held]

    def __call__(self, plan: PruningPlan) -> float:
        """The loss of the outputs (see `mipp.refit.losses.output_loss`) of what the plan leaves."""
        small = apply(plan, self.model)
        try:
            refit(small, self.model, plan, self.graph, self.known, self.options, memory=self.memory)
        except UnsupportedModelError:  # compared as it was cut
            small = apply(plan, self.model)
        losses = [
            float(output_loss(floating(forward(small, batch.call)), said)) * batch.samples
            for batch, said in zip(self.held, self.said, strict=True)
        ]
        samples = sum(batch.samples for batch in self.held)
        total = sum(gather(sum(losses))) / sum(gather(samples))
        return total if math.isfinite(total) else math.inf
