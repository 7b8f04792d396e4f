"""Milliseconds of every layer at several sizes, measured on the machine at hand."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from mipp.graph.call import Call
from mipp.graph.nodes import PruningGraph
from mipp.graph.program import execute
from mipp.graph.trace import trace
from mipp.modules.copies import tensors_by_name, working_copy
from mipp.plan.budget import Budget
from mipp.plan.latency import TIMERS, Latency, LayerTimes
from mipp.plan.plan import PruningPlan
from mipp.plan.quantities import Floats
from mipp.runtime.default_device import accelerator
from mipp.surgery.cut import apply

SIZES = 8
"""At how many sizes the network is measured, besides the smallest."""
_TURNS = 11


def layer_times(model: nn.Module, graph: PruningGraph, call: Call, budget: Budget) -> LayerTimes:
    """Measures the network with all groups cut alike: to the least that the budget allows, to an eighth, a quarter, ...

    A layer is an op with MACs and what follows it up to the next one. At each size the times of the layers are scaled
    to that of the whole network, which is taken in the runtime of the budget. A model that cannot be run op by op is a
    single layer.

    Args:
        model: The dense model.
        graph: Its pruning graph.
        call: The inputs to measure with.
        budget: Its `round_to` and `min_keep` decide the sizes, its `runtime` where the whole is measured.
    """
    ops = sorted({work.op for work in graph.macs})
    names = [op.name for op in graph.program.ops]
    networks = [_widths(graph, number / SIZES, budget) for number in range(SIZES + 1)]
    cut = [apply(PruningPlan.of(graph, model, {n: range(w) for n, w in ws.items()}), model) for ws in networks]
    split = [layer_ms(small, call, ops, names) for small in cut]
    timer = TIMERS[budget.runtime]
    whole = np.array([timer(small, call) for small in cut])
    layers: tuple[tuple[int, ...], ...] = tuple((op,) for op in ops)
    rows = [row for row in split if row is not None]
    if len(rows) < len(cut):
        layers, rows = (tuple(ops),), [whole[:, None]]
    macs = _macs(graph, layers, networks)
    return LayerTimes(layers, macs, _scale(macs, np.concatenate(rows).reshape(len(cut), -1).T, whole))


@torch.inference_mode()
def layer_ms(model: nn.Module, call: Call, ops: Sequence[int], names: Sequence[str]) -> Floats | None:
    """Median milliseconds from each of the ops to the next one (the first: from the start), over several passes.

    Args:
        model: The model.
        call: Its inputs.
        ops: Indices of ops in its program, ascending.
        names: What the ops of the program are expected to be.

    Returns:
        Shape [ops]; None for a model that cannot be run op by op, or that runs other ops.
    """
    model = working_copy(model)
    program = trace(model, call)
    if program.not_replayable or [op.name for op in program.ops] != list(names):
        return None
    named = tensors_by_name(model)
    bound = {i: named[v.name] for i, v in enumerate(program.values) if v.name in named} | program.constants
    starts = [0, *ops[1:], len(names)]
    turns = []
    for _ in range(_TURNS):
        env = dict(zip(program.inputs, call.map(Tensor.clone).tensors, strict=True))
        times = [_now(call)]
        for span in pairwise(starts):
            execute(program, env, bound, span)
            times.append(_now(call))
        turns.append(np.diff(times))
    milliseconds: Floats = 1e3 * np.median(turns, axis=0)
    return milliseconds


def _now(call: Call) -> float:
    device = accelerator()
    if device is not None and any(tensor.device.type == device.type for tensor in call.tensors):
        torch.accelerator.synchronize()
    return perf_counter()


def _widths(graph: PruningGraph, fraction: float, budget: Budget) -> dict[str, int]:
    widths = {}
    for name, group in graph.groups.items():
        least, unit = max(group.least(budget.min_keep), 1), group.unit(budget.round_to)
        rounded = max(round(fraction * group.size / unit), -(-least // unit)) * unit
        widths[name] = group.size if fraction == 1 else min(rounded, group.size)
    return widths


def _macs(graph: PruningGraph, layers: tuple[tuple[int, ...], ...], networks: Sequence[Mapping[str, int]]) -> Floats:
    nothing = np.zeros((len(layers), 1))
    latency = Latency.of(graph.macs, list(graph.groups), 1 / graph.batch, LayerTimes(layers, nothing, nothing))
    return np.stack([latency.sizes(np.array([*widths.values()], float)) for widths in networks], 1)


def _scale(macs: Floats, ms: Floats, whole: Floats) -> Floats:
    """Times that add up to those of the whole networks; layers that are never cut take the same in all of them."""
    still = (macs[:, 0] == macs[:, -1])[:, None]
    fixed = np.where(still, ms[:, -1:] * whole[-1] / ms[:, -1].sum(), 0)
    moving = np.where(still, 0, ms)
    rest = np.maximum(whole - fixed.sum(0), 0) / np.maximum(moving.sum(0), 1e-300)
    scaled: Floats = np.maximum.accumulate(fixed + moving * rest, 1)  # more MACs never take less time
    return scaled
