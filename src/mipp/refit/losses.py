"""Distances between a pruned and a dense model: in their outputs, and in the values that refitted layers lead to."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.errors import UnsupportedModelError
from mipp.graph.downstream import downstream, read_by_relu, result_of
from mipp.graph.layers import channel_dim
from mipp.graph.nodes import PruningGraph
from mipp.graph.program import Call, Program, execute
from mipp.graph.trees import tensors_in
from mipp.modules.copies import tensors_by_name, working_copy
from mipp.plan.plan import PruningPlan
from mipp.statistics.replay import replayable
from mipp.statistics.unfolding import align

Values = list[Tensor]


@dataclass(frozen=True)
class Feature:
    """A value that both models compute.

    Attributes:
        value: Its index in the program.
        kept: Which positions the pruned one has, by dimension.
    """

    value: int
    kept: Mapping[int, NDArray[np.bool_]]


def features(graph: PruningGraph, plan: PruningPlan) -> list[Feature]:
    """The values that sites which read removed nodes lead to: behind batch norm, addition and ReLU, if any."""
    keep, program = graph.keep_mask(plan.kept), graph.program
    found: dict[int, Feature] = {}
    for site in graph.sites:
        if keep[site.reads[site.reads >= 0]].all():
            continue
        op = program.ops[site.op]
        after = downstream(program, op)
        value, rectified = result_of(program, op, after), read_by_relu(program, op, after)
        if rectified >= 0:
            value = program.ops[program.readers[rectified][0]].outputs[0]
        kept = {channel_dim(op): site.outputs_to_keep(keep), **site.rows_to_keep(keep)}
        if all(stay.any() for stay in kept.values()):  # else it has gone, and one silent position stands in for it
            found[value] = Feature(value, kept)
    return [feature for value, feature in found.items() if value not in program.outputs]


class Runner:
    """Runs a model with the weights that it has at the time, and tells its outputs and features.

    Args:
        model: Its parameters are read at every call, with gradients where they require them.
        wanted: Values of its program.
        expected: The program on some batch. Where another batch takes other ops, or cannot be run op by op, there are
            only outputs.
    """

    def __init__(self, model: nn.Module, wanted: Sequence[int], expected: Program) -> None:
        self._model, self._wanted = model, list(wanted)
        self._copy = working_copy(model)
        self._expected = expected
        self._named = tensors_by_name(model)
        self._programs: dict[Hashable, tuple[Program, dict[int, Tensor]] | None] = {}

    def __call__(self, call: Call) -> tuple[Values, Values]:
        """Floating-point outputs, and the features if there are any."""
        found = self._trace(call)
        if found is None:
            return floating(call(self._model)), []
        program, bound = found
        env = dict(zip(program.inputs, call.tensors, strict=True))
        execute(program, env, bound, (0, len(program.ops)), [*program.outputs, *self._wanted])
        values = {**bound, **env}
        return floating([values[index] for index in program.outputs]), [values[index] for index in self._wanted]

    def prepare(self, call: Call) -> None:
        """Does what the first such call would do; to be called outside of autocast, whose casts are not replayed."""
        self._trace(call)

    def _trace(self, call: Call) -> tuple[Program, dict[int, Tensor]] | None:
        key = call.form
        if key not in self._programs:
            self._programs[key] = self._replayable(call)
        return self._programs[key]

    def _replayable(self, call: Call) -> tuple[Program, dict[int, Tensor]] | None:
        try:
            program, bound = replayable(self._copy, call, self._expected, self._named)
        except UnsupportedModelError:
            return None
        constants = {index: tensor.clone() for index, tensor in program.constants.items()}
        return None if program.guards else (program, bound | constants)


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
            logs = output.float().log_softmax(1), target.float().log_softmax(1)
            parts.append(nn.functional.kl_div(*logs, reduction="batchmean", log_target=True))
    return torch.stack(parts).sum()


def feature_loss(values: Values, targets: Values, features: Sequence[Feature]) -> Tensor:
    """Mean over the features of the squared error relative to the variance of the dense one."""
    pairs = [(v, align(target, v, f.kept)) for v, target, f in zip(values, targets, features, strict=True)]
    return torch.stack([relative_error(value, target) for value, target in pairs]).mean()


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean squared error relative to the variance of the target."""
    target = target.float()
    return nn.functional.mse_loss(output.float(), target) / target.var(correction=0).clamp_min(1e-12)


def floating(output: object) -> Values:
    """The floating-point tensors of an output."""
    return [t for t in tensors_in(output) if t.is_floating_point()]
