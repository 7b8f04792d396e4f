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
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.activations import Batch, Moments, channels_last, inputs_of
from mipp.graph.groups import PruningGraph, Site
from mipp.graph.rules import has_rule
from mipp.graph.streams import Downstream, downstream, norm_scale
from mipp.graph.trace import Program, Ref, execute, trace, working_copy
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


Progress = Callable[[Sequence[Any], str], Iterable[Any]]


class _Stream:
    """A model's activations for all calibration batches, advanced together through its program."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.batches, self.at = batches, 0
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

    def advance(self, to: int, want: Sequence[int] = (), until: int = 0, visit: "Visit | None" = None) -> None:
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
                self._drop_if_dead(program, env, value, to)
        self.at = to

    def _drop_if_dead(self, program: Program, env: dict[int, Tensor], value: int, at: int) -> None:
        if program.last_reads[value] < at:
            env.pop(value, None)

    def _traced(self, batch: Batch) -> tuple[Program, dict[int, Tensor]]:
        key = tuple(tuple(t.shape) for t in batch.call.tensors)
        if key not in self._programs:
            program = trace(self._model, batch.call, has_rule)
            bound = {i: self._named[v.name] for i, v in enumerate(program.values) if v.name in self._named}
            self._programs[key] = program, bound | program.constants
        return self._programs[key]


Visit = Callable[[int, dict[int, Tensor]], None]


@dataclass
class _Target:
    """The uses of one weight: they are refitted together."""

    weight: str
    bias: str
    uses: list[Site]
    after: list[Downstream] = field(default_factory=list)


@torch.no_grad()
def refit(
    small: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    graph: PruningGraph,
    batches: Sequence[Batch],
    options: Refit,
    progress: Progress = lambda items, what: items,
) -> dict[str, tuple[float, float]]:
    """Refits `small` in place.

    Args:
        small: The cut model.
        dense: The model it was cut from.
        plan: What was cut.
        graph: The dense model's graph.
        batches: Unlabelled calibration batches.
        progress: Wraps the list of weights to show how far the refit is.

    Returns:
        For every refitted weight, the mean squared error of its outputs before and after, relative to their variance.
    """
    targets = _targets(plan, graph)
    errors: dict[str, tuple[float, float]] = {}
    if not targets:
        return errors
    full, cut = _Stream(dense, batches), _Stream(small, batches)
    keep = graph.keep_mask({n: nodes or (0,) for n, nodes in plan.kept.items()})
    for number, target in enumerate(progress(targets, "compensation")):
        first = target.uses[0].op
        cut.advance(first)
        following = targets[number + 1].uses[0].op if number + 1 < len(targets) else first
        errors[target.weight] = _refit_one(target, full, cut, small, graph, plan, keep, options, max(following, first))
    return errors


def _targets(plan: PruningPlan, graph: PruningGraph) -> list[_Target]:
    """Weights that read removed nodes, in order of their first use."""
    keep = graph.keep_mask(plan.kept)
    by_weight: dict[str, _Target] = {}
    for site in graph.sites:
        if site.weight:
            target = by_weight.setdefault(site.weight, _Target(site.weight, site.bias, []))
            target.uses.append(site)
            target.after.append(downstream(graph.program, graph.program.ops[site.op]))
    lossy = [t for t in by_weight.values() if any((~keep[s.reads[s.reads >= 0]]).any() for s in t.uses)]
    return sorted(lossy, key=lambda t: t.uses[0].op)


def _refit_one(
    target: _Target,
    full: _Stream,
    cut: _Stream,
    small: nn.Module,
    graph: PruningGraph,
    plan: PruningPlan,
    keep: NDArray[np.bool_],
    options: Refit,
    following: int,
) -> tuple[float, float]:
    ops = [graph.program.ops[s.op] for s in target.uses]
    until = max([op.index + 1 for op in ops] + [d.addition for d in target.after])
    others = [d.other for d in target.after if d.other >= 0]
    want = [v for op in ops for v in (op.args[0].index, op.outputs[0])] + others
    moments: list[Moments] = []
    rows = [torch.from_numpy(np.flatnonzero(np.where(s.writes >= 0, keep[s.writes], True))) for s in target.uses]
    tensors = _tensors(small)

    def visit(index: int, dense: dict[int, Tensor]) -> None:
        pruned = cut.values(index, until, want)
        program = cut.program(cut.batches[index])
        for site, op, after, kept_rows in zip(target.uses, ops, target.after, rows, strict=True):
            dim = -1 if op.name == "linear" else 1
            there = {v: channels_last(dense[v], dim, options.positions) for v in (op.outputs[0], after.other) if v >= 0}
            here = {v: channels_last(pruned[v], dim, options.positions) for v in there}
            scale = norm_scale(program, after.norm, tensors) if after.norm >= 0 else None
            residual = _missing(op.outputs[0], after.other, there, here, kept_rows, scale)
            arguments = {**program.ops[op.index].arguments, "input": pruned[op.args[0].index]}
            arguments["weight"] = tensors[target.weight]
            _accumulate(moments, inputs_of(site, arguments, options.positions), residual)

    full.advance(following, want, until, visit)
    after = target.after[0] if len(target.uses) == 1 else Downstream()
    silent = _silent_inputs(target.uses[0], plan, graph, keep, tensors[target.weight])
    return _solve(target, moments, small, graph.program, after, options, silent)


def _silent_inputs(
    site: Site, plan: PruningPlan, graph: PruningGraph, keep: NDArray[np.bool_], weight: Tensor
) -> Tensor:
    """Inputs of a cut weight that come from nodes standing in for collapsed groups; they stay silent."""
    standing_in = [graph.groups[name].first_node for name in plan.collapsed]
    reads = site.reads[np.where(site.reads >= 0, keep[site.reads], True)]
    kernel = weight[0, 0].numel() if weight.ndim > 2 else 1
    return torch.from_numpy(np.isin(reads, standing_in)).repeat_interleave(kernel)


def _missing(
    out: int, other: int, dense: Mapping[int, Tensor], pruned: Mapping[int, Tensor], rows: Tensor, scale: Tensor | None
) -> Tensor:
    """What the output of a site lacks, in its own units, with the error of the stream it joins; [rows, outputs]."""
    missing = dense[out][:, rows] - pruned[out]
    if other < 0:
        return missing
    behind = dense[other] if dense[other].shape == pruned[other].shape else dense[other][:, rows]
    error = behind - pruned[other]
    if scale is not None:
        error = error * (scale / (scale.square() + 1e-6 * scale.square().mean())).to(error.dtype)
    return missing + error


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _accumulate(moments: list[Moments], inputs: Tensor, residual: Tensor) -> None:
    groups = len(inputs)
    residuals = residual.unflatten(1, (groups, -1)).transpose(0, 1)
    if not moments:
        moments.extend(Moments(inputs.shape[2] + residuals.shape[2], inputs.device) for _ in range(groups))
    for moment, x, r in zip(moments, inputs, residuals, strict=True):
        moment.update(torch.cat([x, r], 1))


def _solve(
    target: _Target,
    moments: Sequence[Moments],
    small: nn.Module,
    program: Program,
    after: Downstream,
    options: Refit,
    silent: Tensor,
) -> tuple[float, float]:
    named = dict(small.named_parameters())
    weight = named[target.weight]
    offset_to = _offset_place(target, program, after, small, options)
    changes, offsets, before, left = [], [], 0.0, 0.0
    inputs = weight[0].numel()
    quiet = torch.nonzero(silent).flatten().to(weight.device)
    for moment in moments:
        second = moment.covariance if offset_to else moment.raw
        second = second.index_fill(0, quiet, 0).index_fill(1, quiet, 0)
        xx, xr, rr = second[:inputs, :inputs], second[:inputs, inputs:], second[inputs:, inputs:]
        ridge = options.ridge * xx.diagonal().mean() + 1e-300
        change = torch.linalg.solve(xx + ridge * torch.eye(inputs, dtype=xx.dtype, device=xx.device), xr)
        before += float(moment.raw[inputs:, inputs:].trace())
        left += float((rr - 2 * change.mT @ xr + change.mT @ xx @ change).trace())
        changes.append(change.mT)
        offsets.append(moment.mean[inputs:] - moment.mean[:inputs] @ change)
    weight.add_(torch.cat(changes).reshape(weight.shape).to(weight.dtype))
    if offset_to:
        _add_offset(offset_to, torch.cat(offsets), small, program, after)
    return before, left


def _offset_place(target: _Target, program: Program, after: Downstream, small: nn.Module, options: Refit) -> str:
    """Name of the parameter that takes the offset, "" if there is none; one that other ops read too is left alone."""
    named = dict(small.named_parameters())
    op = program.ops[target.uses[0].op]
    places = [op.arguments["bias"]]
    if after.norm >= 0 and op.arguments["bias"] is None:
        places.append(program.ops[after.norm].arguments["bias"])
    for place in places:
        if isinstance(place, Ref) and program.values[place.index].name in named:
            alone = len(program.readers[place.index]) == len(target.uses)
            return program.values[place.index].name if alone else ""
    owner = small.get_submodule(op.module)
    standard = isinstance(owner, nn.Linear | nn.modules.conv._ConvNd) and owner.bias is None
    own = target.weight == f"{op.module}.weight".lstrip(".")
    return f"{op.module}.bias".lstrip(".") if options.allow_bias and standard and own else ""


def _add_offset(place: str, offset: Tensor, small: nn.Module, program: Program, after: Downstream) -> None:
    named = dict(small.named_parameters())
    path, _, attribute = place.rpartition(".")
    owner = small.get_submodule(path)
    if place not in named:
        weight = owner.weight
        assert isinstance(weight, Tensor)
        setattr(owner, attribute, nn.Parameter(offset.to(weight.dtype)))
        return
    if isinstance(owner, nn.modules.batchnorm._BatchNorm):
        offset = offset * norm_scale(program, after.norm, _tensors(small))
    named[place].add_(offset.to(named[place].dtype))
