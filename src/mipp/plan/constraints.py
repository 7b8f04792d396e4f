"""The kinds of budgets; CONTRIBUTING.md says how to add one.

What needs torch is imported when it is called: the command line lists its options without.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mipp.plan.registry import Constraint, register

if TYPE_CHECKING:
    from torch import nn

    from mipp.graph.call import Call
    from mipp.graph.nodes import PruningGraph
    from mipp.plan.latency import LayerTimes
    from mipp.plan.quantities import Quantity


def _macs(graph: "PruningGraph", groups: Sequence[str], _: "LayerTimes | None") -> "Quantity":
    from mipp.plan.quantities import Sum

    return Sum.of(graph.macs, groups, 1 / graph.batch)


def _params(graph: "PruningGraph", groups: Sequence[str], _: "LayerTimes | None") -> "Quantity":
    from mipp.plan.quantities import Sum

    return Sum.of(graph.params, groups, 1.0)


def _nodes(graph: "PruningGraph", groups: Sequence[str], _: "LayerTimes | None") -> "Quantity":
    from mipp.plan.quantities import Sum

    return Sum.of_widths(len(groups))


def _latency(graph: "PruningGraph", groups: Sequence[str], times: "LayerTimes | None") -> "Quantity | None":
    from mipp.plan.latency import Latency

    return None if times is None else Latency.of(graph.macs, groups, 1 / graph.batch, times)


def _activations(graph: "PruningGraph", groups: Sequence[str], _: "LayerTimes | None") -> "Quantity":
    from mipp.plan.quantities import Peak

    return Peak.of(graph.activations, groups, 1 / graph.batch)


def _count_parameters(model: "nn.Module", _: "Call", __: str) -> float:
    return sum(parameter.numel() for parameter in model.parameters())


def _time(model: "nn.Module", call: "Call", runtime: str) -> float:
    from mipp.plan.latency import TIMERS

    return TIMERS[runtime](model, call)


register(Constraint("macs", "MACs", "MACs; 0.5 is a fraction, 1000000 absolute", _macs))
register(Constraint("params", "parameters", "parameters", _params, measure=_count_parameters))
register(Constraint("nodes", "nodes", "nodes in all groups", _nodes, counts_silent=False))
register(
    Constraint(
        "latency_ms",
        "latency",
        "measured latency; 0.5 is a fraction, 5 and 2.5 milliseconds",
        _latency,
        unit="ms",
        measure=_time,
        is_estimated=True,
    )
)
register(
    Constraint(
        "activations",
        "activations",
        "most bytes of activations of one sample at one time; 0.5 is a fraction, 65536 absolute",
        _activations,
        unit="bytes",
    )
)
