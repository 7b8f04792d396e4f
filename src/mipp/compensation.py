"""Refits the weights that read removed nodes, by least squares on unlabelled data.

Sites are refitted from input to output. Each is fitted from what it reads in the *pruned* network to what it wrote in
the *dense* one; where its output is added to a residual stream, the error the stream has gathered so far is added to
the target, so that later blocks repair earlier ones. Dense and pruned activations advance together through the
straight-line program, so the whole costs about one dense and two pruned passes over the calibration data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipp.activations import Batch, Moments, channels_last, inputs_of
from mipp.errors import MippError, UnsupportedModelError
from mipp.graph.groups import PruningGraph, Site
from mipp.graph.rules import has_rule
from mipp.graph.streams import Downstream, downstream, norm_scale
from mipp.graph.trace import Op, Program, Ref, execute, full_copy, trace, working_copy
from mipp.plan import PruningPlan


@dataclass(frozen=True)
class Refit:
    """How consumers are refitted.

    Attributes:
        ridge: Penalty on the distance to the cut weights, relative to the mean second moment of the inputs.
        positions: At most this many positions of each sample enter the statistics of one layer.
        allow_bias: Give layers without bias and without a following batch norm a bias. Adds parameters.
    """

    ridge: float = 1e-3
    positions: int = 64
    allow_bias: bool = False

    def __post_init__(self) -> None:
        if not self.ridge > 0 or self.positions < 1:
            raise MippError(f"Refit(ridge={self.ridge}, positions={self.positions}): expected both to be positive.")


Progress = Callable[[Sequence[Any], str], Iterable[Any]]
Visit = Callable[[int, dict[int, Tensor]], None]


class _Stream:
    """A model's activations for all calibration batches, advanced together through its program."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch], expected: Program) -> None:
        self.batches, self.at = batches, 0
        self._expected = [op.name for op in expected.ops]
        self._programs: dict[tuple[Any, ...], tuple[Program, dict[int, Tensor]]] = {}
        self._model = working_copy(model)
        self._named = _tensors(model)
        self._envs: list[dict[int, Tensor]] = []
        for batch in batches:
            self._envs.append(dict(zip(self.program(batch).inputs, batch.call.tensors, strict=True)))

    def program(self, batch: Batch) -> Program:
        return self._traced(batch)[0]

    def values(self, index: int, until: int, want: Sequence[int]) -> dict[int, Tensor]:
        """Runs one batch from where the stream is to op `until`, without moving it, and returns the values wanted."""
        program, bound = self._traced(self.batches[index])
        env = dict(self._envs[index])
        execute(program, env, bound, (self.at, until), want)
        return {v: env[v] if v in env else bound[v] for v in want}

    def advance(self, to: int, want: Sequence[int] = (), until: int = 0, visit: Visit | None = None) -> None:
        """Moves every batch to op `to`; on the way hands the values wanted (made before op `until`) to `visit`."""
        for index, batch in enumerate(self.batches):
            program, bound = self._traced(batch)
            env = self._envs[index]
            first = min(to, max(until, self.at))
            execute(program, env, bound, (self.at, first), want)
            ahead = env
            if until > to:
                ahead = dict(env)
                execute(program, ahead, bound, (to, until), want)
            if visit is not None:
                visit(index, {v: ahead[v] if v in ahead else bound[v] for v in want})
            execute(program, env, bound, (first, to))
            for value in want:
                if program.last_reads[value] < to:
                    env.pop(value, None)
        self.at = to

    def _traced(self, batch: Batch) -> tuple[Program, dict[int, Tensor]]:
        key = tuple(tuple(t.shape) for t in batch.call.tensors)
        if key not in self._programs:
            program = trace(self._model, batch.call, has_rule)
            if program.not_replayable:
                raise UnsupportedModelError(program.not_replayable)
            if [op.name for op in program.ops] != self._expected:
                raise UnsupportedModelError("the model runs other ops on batches of another size")
            bound = {i: self._named[v.name] for i, v in enumerate(program.values) if v.name in self._named}
            self._programs[key] = program, bound | program.constants
        return self._programs[key]


@dataclass
class _Target:
    """The uses of one weight: they are refitted together."""

    weight: str
    uses: list[Site] = field(default_factory=list)


@torch.no_grad()
def refit(
    small: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    graph: PruningGraph,
    batches: Sequence[Batch],
    options: Refit,
    progress: Progress = lambda items, what: items,
) -> None:
    """Refits `small` in place.

    Args:
        small: The cut model.
        dense: The model it was cut from.
        plan: What was cut.
        graph: The dense model's graph.
        batches: Unlabelled calibration batches.
        options: How to refit.
        progress: Wraps the list of weights to show how far the refit is.

    Raises:
        UnsupportedModelError: The model cannot be run in pieces; `small` is as it was.
    """
    targets = _targets(plan, graph)
    if not targets:
        return
    if options.allow_bias:
        dense = full_copy(dense)
        _add_biases((dense, small), targets, graph.program)
    work = _Refitter(small, dense, plan, graph, batches, options)
    starts = [target.uses[0].op for target in targets]
    for target, following in zip(progress(targets, "compensation"), [*starts[1:], starts[-1]], strict=True):
        work.refit(target, following)


def _targets(plan: PruningPlan, graph: PruningGraph) -> list[_Target]:
    """Weights that read removed nodes, in order of their first use."""
    keep = graph.keep_mask(plan.kept)
    by_weight: dict[str, _Target] = {}
    for site in graph.sites:
        if site.weight:
            by_weight.setdefault(site.weight, _Target(site.weight)).uses.append(site)
    lossy = [t for t in by_weight.values() if any((~keep[s.reads[s.reads >= 0]]).any() for s in t.uses)]
    return sorted(lossy, key=lambda t: t.uses[0].op)


def _add_biases(models: Sequence[nn.Module], targets: Sequence[_Target], program: Program) -> None:
    """Gives zero biases to the layers that have none and no batch norm behind them."""
    for target in targets:
        op = program.ops[target.uses[0].op]
        for model in models:
            owner = model.get_submodule(op.module)
            own = f"{op.module}.weight".lstrip(".") == target.weight
            bare = isinstance(owner, nn.Linear | nn.modules.conv._ConvNd) and owner.bias is None
            if own and bare and downstream(program, op).norm < 0:
                weight = _tensors(model)[target.weight]
                owner.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))


class _Refitter:
    """Refits weight after weight, while the dense and the cut model advance together."""

    def __init__(
        self,
        small: nn.Module,
        dense: nn.Module,
        plan: PruningPlan,
        graph: PruningGraph,
        batches: Sequence[Batch],
        options: Refit,
    ) -> None:
        self.small, self.options = small, options
        self.full, self.cut = _Stream(dense, batches, graph.program), _Stream(small, batches, graph.program)
        self.program = self.full.program(batches[0])
        self.keep = graph.keep_mask({name: nodes or (0,) for name, nodes in plan.kept.items()})
        self.standing_in = [graph.groups[name].first_node for name in plan.collapsed]

    def refit(self, target: _Target, following: int) -> None:
        """Refits one weight and moves the dense model on to op `following`."""
        self.cut.advance(target.uses[0].op)
        ops = [self.program.ops[site.op] for site in target.uses]
        after = [downstream(self.program, op) for op in ops]
        until = max([op.index + 1 for op in ops] + [d.addition for d in after])
        want = [v for op in ops for v in (op.args[0].index, op.outputs[0])] + [d.other for d in after if d.other >= 0]
        moments: list[Moments] = []

        def visit(index: int, dense: dict[int, Tensor]) -> None:
            pruned = self.cut.values(index, until, want)
            for site, op, behind in zip(target.uses, ops, after, strict=True):
                inputs = self._inputs(site, op, pruned[op.args[0].index], index, target.weight)
                _accumulate(moments, inputs, self._missing(site, op, behind, dense, pruned))

        self.full.advance(following, want, until, visit)
        self._solve(target, moments, ops[0], after[0] if len(ops) == 1 else Downstream())

    def _inputs(self, site: Site, op: Op, x: Tensor, batch: int, weight: str) -> Tensor:
        arguments = self.cut.program(self.cut.batches[batch]).ops[op.index].arguments
        tensors = {"input": x, "weight": _tensors(self.small)[weight]}
        return inputs_of(site, {**arguments, **tensors}, self.options.positions)

    def _missing(
        self, site: Site, op: Op, after: Downstream, dense: Mapping[int, Tensor], pruned: Mapping[int, Tensor]
    ) -> Tensor:
        """What the output lacks, in its own units, with the error of the stream it joins; [rows, outputs]."""
        dim = -1 if op.name == "linear" else 1
        rows = torch.from_numpy(np.flatnonzero(np.where(site.writes >= 0, self.keep[site.writes], True)))

        def error(value: int) -> Tensor:
            there, here = (channels_last(v[value], dim, self.options.positions) for v in (dense, pruned))
            return (there if there.shape == here.shape else there[:, rows.to(there.device)]) - here

        missing = error(op.outputs[0])
        if after.other < 0:
            return missing
        if after.norm < 0:
            return missing + error(after.other)
        scale = norm_scale(self.program, after.norm, _tensors(self.small))
        inverse = scale / (scale.square() + 1e-6 * scale.square().mean() + 1e-30)
        return missing + error(after.other) * inverse.to(missing.dtype)

    def _solve(self, target: _Target, moments: Sequence[Moments], op: Op, after: Downstream) -> None:
        weight = _tensors(self.small)[target.weight]
        place = self._offset_place(op, after, len(target.uses))
        inputs = weight[0].numel()
        silent = self._silent_inputs(target.uses[0], weight).to(weight.device)
        changes, offsets = [], []
        for moment in moments:
            second = moment.covariance if place else moment.raw
            second = second.index_fill(0, silent, 0).index_fill(1, silent, 0) if len(silent) else second
            xx, xr = second[:inputs, :inputs], second[:inputs, inputs:]
            ridge = self.options.ridge * xx.diagonal().mean() + 1e-300
            change = torch.linalg.solve(xx + ridge * torch.eye(inputs, dtype=xx.dtype, device=xx.device), xr)
            changes.append(change.mT)
            offsets.append(moment.mean[inputs:] - moment.mean[:inputs] @ change)
        weight.add_(torch.cat(changes).reshape(weight.shape).to(weight.dtype))
        if place:
            offset = torch.cat(offsets)
            if op.arguments["bias"] is None:  # the batch norm takes it
                offset = offset * norm_scale(self.program, after.norm, _tensors(self.small))
            _tensors(self.small)[place].add_(offset.to(weight.dtype))

    def _silent_inputs(self, site: Site, weight: Tensor) -> Tensor:
        """Inputs of a cut weight that come from nodes standing in for collapsed groups; they stay silent."""
        reads = site.reads[np.where(site.reads >= 0, self.keep[site.reads], True)]
        kernel = weight[0, 0].numel() if weight.ndim > 2 else 1
        return torch.from_numpy(np.flatnonzero(np.repeat(np.isin(reads, self.standing_in), kernel)))

    def _offset_place(self, op: Op, after: Downstream, uses: int) -> str:
        """Name of the parameter that takes the offset, "" if there is none, or if other ops read it too."""
        place = op.arguments["bias"]
        if place is None and after.norm >= 0:
            place = self.program.ops[after.norm].arguments["bias"]
        if not isinstance(place, Ref) or self.program.values[place.index].origin != "parameter":
            return ""
        return self.program.values[place.index].name if len(self.program.readers[place.index]) == uses else ""


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _accumulate(moments: list[Moments], inputs: Tensor, residual: Tensor) -> None:
    groups = len(inputs)
    residuals = residual.unflatten(1, (groups, -1)).transpose(0, 1)
    if not moments:
        moments.extend(Moments(inputs.shape[2] + residuals.shape[2], inputs.device) for _ in range(groups))
    for moment, x, r in zip(moments, inputs, residuals, strict=True):
        moment.update(torch.cat([x, r], 1))
