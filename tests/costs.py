"""Budgets' arithmetic counted independently, for the tests of plans."""

import copy

import numpy as np
import torch
from cases import Case, call, inspected, named, plan_for
from hypothesis import Phase, settings
from torch.utils.flop_counter import FlopCounterMode

import mipp
from mipp.plan.cost import cost_of
from mipp.plan.elimination import Elimination
from mipp.plan.latency import LayerTimes


def few(examples: int):
    return settings(max_examples=examples, phases=[Phase.explicit, Phase.generate])


def counted(model, case: Case) -> dict[str, int]:
    """MACs per sample and parameters by an independent count (torch reports 2 FLOPs per MAC)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(copy.deepcopy(model).requires_grad_(False), case.batch(2))  # its hooks refuse weights as inputs
    return {"macs": counter.get_total_flops() // 4, "params": sum(p.numel() for p in model.parameters())}


def eliminations(case: Case, seed: int = 0) -> dict[str, Elimination]:
    """Random orders with random increasing losses."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for name, group in inspected(case)[1].groups.items():
        loss = torch.rand(group.size, generator=g, dtype=torch.float64).sort().values.cumsum(0)
        order = torch.randperm(group.size, generator=g).tolist()
        found[name] = Elimination(tuple(order), (0.0, *loss.tolist()))
    return found


def cut_to(case: Case, widths) -> dict[str, int]:
    model, _ = inspected(case)
    nodes = {"nodes": sum(widths.values())}
    return counted(mipp.apply(plan_for(case, {n: range(w) for n, w in widths.items()}), model), case) | nodes


def timed(name: str, ms=lambda macs: 1e-3 + 1e-4 * macs):
    """A case's costs with a table in which a layer of so many MACs takes `ms` of it."""
    graph = inspected(named(name))[1].graph
    layers = tuple((op,) for op in sorted({work.op for work in graph.macs}))
    grid = np.linspace(0, 1e6, 2001)[None].repeat(len(layers), 0)
    return cost_of(graph, LayerTimes(layers, grid, ms(grid)))
