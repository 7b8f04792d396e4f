"""Samples of adjacent layers: what a group's nodes say, and what the layer that reads them makes of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mipp.data.calibration import Batch, name_batch
from mipp.estimators import Samples
from mipp.graph.downstream import downstream
from mipp.graph.layers import channel_dim
from mipp.graph.nodes import NodeGroup, PruningGraph, Site
from mipp.graph.program import Op, Program, Ref
from mipp.modules.copies import working_copy
from mipp.runtime.distributed import gather, is_sharded
from mipp.runtime.record import Notes
from mipp.statistics.followed import Followed
from mipp.statistics.observing import check_finite, observe
from mipp.statistics.unfolding import channels_last, inputs_of

Collapse = Literal["l1", "l2", "mean", "std"]
Activation = Literal["pre", "post"]

_BOUNDED = ("hardtanh", "hardsigmoid", "sigmoid", "tanh", "softsign", "threshold", "clamp", "clamp_min", "softplus")
_RECTIFIERS = (
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "rrelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
)
_NONLINEAR = (*_BOUNDED, *_RECTIFIERS)
_TRANSPARENT = ("batch_norm", "dropout", "clone", "detach", "alias")


@dataclass(frozen=True)
class Reading:
    """Settings of the samples that are taken of adjacent layers.

    Attributes:
        collapse: What becomes of a map (a channel's values at all positions): its L1 or L2 norm, mean or standard
            deviation, so that one image is one sample; None makes each position a sample. A node with one value per
            image, as in a linear layer, keeps that value in any case.
        activation: Targets are what the next layer writes ("pre"), or that after its batch norm, addition and
            non-linearity ("post"). In the latter case the skip of an addition is always available.
        positions: Without collapse, at most this many positions of each sample are taken.
    """

    collapse: Collapse | None
    activation: Activation
    positions: int


@dataclass
class Observed:
    """The samples read at one site, batch by batch.

    Attributes:
        inputs: Features that the site reads, shape [convolution groups, rows, features].
        skips: What its outputs are added to, shape [rows, channels].
        outputs: Its targets, shape [rows, outputs].
        images: Which sample each row comes from, shape [rows].
        weight: Its weight.
    """

    inputs: list[Tensor] = field(default_factory=list)
    skips: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    weight: Tensor = field(default_factory=lambda: torch.empty(0))

    def pool(self, samples: int) -> "Observed":
        """The samples of all processes where data are sharded; `samples` are those of this process."""
        if not is_sharded():
            return self
        whole, first = Observed(weight=self.weight), 0
        for number, own in gather((samples, replace(self, weight=torch.empty(0)).map(Tensor.cpu))):
            there = own.map(lambda tensor: tensor.to(self.weight.device))
            whole.inputs += there.inputs
            whole.skips += there.skips
            whole.outputs += there.outputs
            whole.images += [images + first for images in own.images]
            first += number
        return whole

    def map(self, function: Callable[[Tensor], Tensor]) -> "Observed":
        """The same with a function of each tensor."""
        inputs, skips, outputs, images = (
            [function(tensor) for tensor in tensors] for tensors in (self.inputs, self.skips, self.outputs, self.images)
        )
        return Observed(inputs, skips, outputs, images, function(self.weight))

    @classmethod
    def of(cls, uses: Sequence["Observed"]) -> "Observed":
        """The samples of all uses of one weight together (a use that a batch did not reach has none)."""
        own = [use for use in uses if use.outputs]

        def pooled(name: str) -> list[Tensor]:
            return [tensor for use in own for tensor in getattr(use, name)]

        return cls(pooled("inputs"), pooled("skips"), pooled("outputs"), pooled("images"), own[0].weight)


@torch.no_grad()
def adjacent_samples(
    model: nn.Module,
    graph: PruningGraph,
    group: NodeGroup,
    batches: Iterable[Batch],
    keep: NDArray[np.bool_],
    reading: Reading,
    noise: float = 0.0,
    notes: Notes | None = None,
) -> list[Samples]:
    """Runs the model once and returns what a group tells each of its readers.

    Args:
        model: Not changed.
        graph: Its pruning graph.
        group: Its nodes are those of the samples.
        batches: Calibration batches.
        keep: Whether each node of the graph is still there; targets are the outputs that are.
        reading: How samples are taken.
        noise: Noise on the targets, relative to their variance.
        notes: Get a warning where batches cannot be followed and are left out; None: all are needed.

    Returns:
        One set of samples per reader and convolution group.

    Raises:
        CalibrationError: Activations are not finite.
    """
    readers = graph.readers(group)
    uses = {site.op: [use for use in graph.sites if use.op in graph.uses(site)] for site in readers}
    own = [use for found in uses.values() for use in found]
    observed = observe_sites(model, graph, own, batches, reading, group, notes)
    found: list[Samples] = []
    for site in readers:
        rows = torch.from_numpy(site.outputs_to_keep(keep)).reshape(site.groups, -1)
        pooled = Observed.of([observed[use.op] for use in uses[site.op]])
        found.extend(_parts(pooled, site, group, rows, reading, noise))
    return found


def observe_sites(
    model: nn.Module,
    graph: PruningGraph,
    sites: Sequence[Site],
    batches: Iterable[Batch],
    reading: Reading,
    group: NodeGroup | None = None,
    notes: Notes | None = None,
) -> dict[int, Observed]:
    """Targets of some sites by index of the op; and, for a group, what they read of it."""
    program, model = graph.program, working_copy(model)
    by_op = {site.op: site for site in sites}
    ends = {op: _end(program, program.ops[op], reading.activation) for op in by_op}
    found = {op: Observed() for op in by_op}
    first = 0

    def observer(index: int, arguments: Mapping[str, Any], result: Tensor) -> None:
        if index in by_op:
            found[index].weight = arguments["weight"].detach()
            if group is not None:
                inputs = _inputs(by_op[index], group, arguments, reading)
                check_finite(graph, by_op[index], [inputs], batch)
                found[index].inputs.append(inputs.clone())
        for op, end in ends.items():
            dim = channel_dim(program.ops[op])
            if index == end.addition:
                skip = list(arguments.values())[end.skip]
                found[op].skips.append(_channels(skip, dim, reading).clone())
            if index == end.op:
                outputs = _channels(result, dim, reading)
                check_finite(graph, by_op[op], [outputs], batch)
                found[op].outputs.append(outputs.clone())
                each = outputs.shape[0] // batch.samples
                found[op].images.append(first + torch.arange(batch.samples).repeat_interleave(each))

    wanted = {*by_op, *(e.op for e in ends.values()), *(e.addition for e in ends.values() if e.addition >= 0)}
    followed = Followed()
    for batch in batches:
        with followed.attempt(), name_batch(batch):
            observe(model, batch.call, program, sorted(wanted), observer, known=followed.forms)
            first += batch.samples
    followed.tell(notes)
    return {op: found[op].pool(first) for op in sorted(found)}


@dataclass(frozen=True)
class _End:
    """The op whose result is the target of a site; behind an addition also that op and the place of its skip."""

    op: int
    addition: int = -1
    skip: int = -1


def _end(program: Program, op: Op, activation: Activation) -> _End:
    if activation == "pre":
        return _End(op.index)
    after = downstream(program, op)
    start, skip = op, -1
    if after.addition >= 0:
        start = program.ops[after.addition]
        skip = start.args.index(Ref(after.other))
    return _End(_find_nonlinearity(program, start), after.addition, skip)


def _find_nonlinearity(program: Program, op: Op) -> int:
    """The first non-linearity that an op's output goes through, or the last op before its shape or its path splits."""
    value, shape = op.outputs[0], program.values[op.outputs[0]].shape
    while len(program.readers[value]) == 1 and value not in program.outputs:
        reader = program.ops[program.readers[value][0]]
        name = reader.name.rstrip("_")
        if (name not in _NONLINEAR and name not in _TRANSPARENT) or program.values[reader.outputs[0]].shape != shape:
            break
        op, value = reader, reader.outputs[0]
        if name in _NONLINEAR:
            break
    return op.index


def _parts(
    observed: Observed, site: Site, group: NodeGroup, rows: Tensor, reading: Reading, noise: float
) -> list[Samples]:
    inputs = torch.cat(observed.inputs, 1)
    outputs = torch.cat(observed.outputs).unflatten(1, (site.groups, -1))
    skip = torch.cat(observed.skips) if observed.skips else inputs.new_empty(inputs.shape[1], 0)
    whole = reading.collapse is None
    blocks = site.features_of(group, observed.weight) if whole else torch.arange(group.size)[:, None]
    parts = []
    for index in range(site.groups):
        x, y = inputs[index], outputs[:, index, rows[index].to(outputs.device)]
        images, floor = torch.cat(observed.images).to(x.device), torch.full((y.shape[1],), noise)
        parts.append(Samples(torch.cat([x, skip], 1), y, blocks, images, floor))
    return parts


def _inputs(site: Site, group: NodeGroup, arguments: Mapping[str, Any], reading: Reading) -> Tensor:
    """The input of a site: unfolded rows, or with collapse one number per node, then one per channel of others."""
    if reading.collapse is None:
        return inputs_of(site, arguments, reading.positions)
    x = arguments["input"]
    if "stride" not in arguments:
        x = x.movedim(-1, 1)
    elif x.ndim < arguments["weight"].ndim:
        x = x.unsqueeze(0)
    maps = x.reshape(x.shape[0], site.groups, -1, x[0, 0].numel()).transpose(0, 1)
    own = torch.from_numpy(group.places(site.reads))
    others = torch.from_numpy(np.flatnonzero(~group.holds(site.reads)))
    nodes = _collapse(maps[:, :, own.to(x.device)].flatten(3), reading.collapse)
    return torch.cat([nodes, _collapse(maps[:, :, others.to(x.device)], reading.collapse)], 2)


def _channels(values: Tensor, dim: int, reading: Reading) -> Tensor:
    """Channels of a tensor, by position or collapsed, shape [rows, channels]."""
    if reading.collapse is None:
        return channels_last(values, dim, reading.positions)
    maps = values.unsqueeze(0) if dim % values.ndim == 0 else values.movedim(dim, 1)
    return _collapse(maps.reshape(*maps.shape[:2], -1), reading.collapse)


def _collapse(maps: Tensor, collapse: Collapse) -> Tensor:
    """One number for the last dimension; a single value is that number."""
    if maps.shape[-1] == 1:
        return maps[..., 0]
    if collapse == "l1":
        return maps.abs().sum(-1)
    if collapse == "l2":
        return maps.square().sum(-1).sqrt()
    if collapse == "mean":
        return maps.mean(-1)
    return (maps - maps.mean(-1, keepdim=True)).square().mean(-1).sqrt()
