"""Distances between a pruned and a dense model: in their outputs, and in the values that refitted layers lead to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.downstream import downstream, read_by_relu, result_of
from mipp.graph.layers import channel_dim
from mipp.graph.nodes import PruningGraph, Site
from mipp.graph.program import Op, Program, StrayedError, execute
from mipp.graph.row_norms import RowNorm, row_norm
from mipp.graph.trees import tensors_in
from mipp.plan.plan import PruningPlan
from mipp.statistics.paths import Path, Paths
from mipp.statistics.unfolding import align

Values = list[Tensor]
_ABSENT = torch.empty(0)


@dataclass(frozen=True)
class Feature:
    """A value that both models compute.

    Attributes:
        site: The site that leads to it.
        kept: Which positions the pruned one has, by dimension.
        norm: The norm over rows that reads it, if one does.
    """

    site: Site
    kept: Mapping[int, NDArray[np.bool_]]
    norm: RowNorm | None

    def value_on(self, path: Path) -> int:
        """Its index in the program of a path, -1 if the site is not there."""
        op = next(iter(path.uses(self.site)), None)
        return -1 if op is None else _result_of(path.program, op)


def features(graph: PruningGraph, plan: PruningPlan) -> list[Feature]:
    """The values that sites which read removed nodes lead to: behind batch norm, addition and ReLU, if any."""
    keep, program = graph.keep_mask(plan.kept), graph.program
    found: dict[int, Feature] = {}
    for site in graph.sites:
        if keep[site.reads[site.reads >= 0]].all():
            continue
        op = program.ops[site.op]
        kept = {channel_dim(op): site.outputs_to_keep(keep), **site.rows_to_keep(keep)}
        if all(stay.any() for stay in kept.values()):  # else it has gone, and one silent position stands in for it
            value = _result_of(program, op)
            found[value] = Feature(site, kept, row_norm(program, value))
    return [feature for value, feature in found.items() if value not in program.outputs]


def _result_of(program: Program, op: Op) -> int:
    """The value that a layer leads to: behind batch norm, addition and ReLU, if any."""
    after = downstream(program, op)
    rectified = read_by_relu(program, op, after)
    return result_of(program, op, after) if rectified < 0 else program.ops[program.readers[rectified][0]].outputs[0]


class Runner:
    """Runs a model with the weights that it has at the time, and tells its outputs and features.

    Args:
        model: Its parameters are read at every call, with gradients where they require them.
        wanted: Features of it.
        graph: Its pruning graph, or that of the model it was cut from.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[Feature], graph: PruningGraph) -> None:
        self._model, self._wanted = model, wanted
        self._paths = Paths(model, graph)

    def find(self, call: Call) -> Path | None:
        """The path of a call, to be found outside of autocast, whose casts are not replayed; None where there is none.

        It holds as long as the weights do not change the path.
        """
        try:
            return self._paths.find(call)
        except UnsupportedModelError:
            return None

    def __call__(self, call: Call, path: Path | None) -> tuple[Values, Values | None]:
        """Floating-point outputs, and the features; None where the call cannot be run op by op, or there are none."""
        values = [] if path is None else [feature.value_on(path) for feature in self._wanted]
        if path is None or max(values, default=-1) < 0:
            return floating(call(self._model)), None
        program = path.program
        env = dict(zip(program.inputs, call.tensors, strict=True))
        try:
            execute(program, env, path.bound, (0, len(program.ops)), [*program.outputs, *values])
        except StrayedError:
            return floating(call(self._model)), None
        found = {**path.bound, **env}
        outputs = floating([found[index] for index in program.outputs])
        return outputs, [found.get(value, _ABSENT) for value in values]


def output_loss(outputs: Values, targets: Values) -> Tensor:
    """The squared error relative to the variance of the dense outputs, and KL(dense || small) where they may be logits.

    Outputs of shape [samples, 2 or more] may be. They may be values as well, of which the softmax would not see a
    common shift, and of large ones nothing but the largest: so the error counts, too.

    Raises:
        UnsupportedModelError: There are no floating-point outputs.
    """
    if not outputs:
        raise UnsupportedModelError(
            "The model returns no floating-point tensor, so outputs cannot be compared, which distillation needs. "
            "Return the logits, or leave recover out."
        )
    parts = []
    for output, target in zip(outputs, targets, strict=True):
        parts.append(relative_error(output, target))
        if output.ndim == 2 and output.shape[1] > 1:
            parts.append(divergence(output, target))
    return torch.stack(parts).sum()


def divergence(output: Tensor, target: Tensor) -> Tensor:
    """KL(target || output) of logits along the last dimension, the mean over all others."""
    found, wanted = (logits.float().log_softmax(-1).flatten(0, -2) for logits in (output, target))
    return nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def feature_loss(values: Values, targets: Values, features: Sequence[Feature]) -> Tensor:
    """Mean over the features that are there of the relative error."""
    there = [(v, t, f) for v, t, f in zip(values, targets, features, strict=True) if v is not _ABSENT is not t]
    return torch.stack(
        [relative_error(value, align(target, value.shape, f.kept), f.norm) for value, target, f in there]
    ).mean()


def relative_error(output: Tensor, target: Tensor, norm: RowNorm | None = None) -> Tensor:
    """The mean squared error relative to the variance of the target, or where a norm follows, to that of each row."""
    output, target = output.float(), target.float()
    if norm is None or target.ndim < 2:
        return nn.functional.mse_loss(output, target) / target.var(correction=0).clamp_min(1e-12)
    rows = target.flatten(0, -2)
    return (norm.weigh(rows) * (output.flatten(0, -2) - rows).square().mean(1)).mean()


def floating(output: object) -> Values:
    """The floating-point tensors of an output."""
    return [t for t in tensors_in(output) if t.is_floating_point()]
