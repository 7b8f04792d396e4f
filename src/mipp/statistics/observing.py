"""Activations of a model on calibration data; what is kept of them are their moments."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils.weak import WeakTensorKeyDictionary

from mipp.data.calibration import Batch, name_batch
from mipp.errors import CalibrationError, UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.downstream import Downstream, downstream, norm_scale
from mipp.graph.layers import as_layer, channel_dim, is_layer, weight_argument
from mipp.graph.nodes import PruningGraph, Site
from mipp.graph.program import STRIDELESS, Program, Ref, StrayedError
from mipp.graph.row_norms import row_norm_behind
from mipp.graph.trace import OpStream, call_op, module_stack, run
from mipp.graph.trees import map_tensors, tensors_in
from mipp.graph.uses import Use, uses_of, weight_name
from mipp.modules.copies import canonical_names, tensors_by_name, working_copy
from mipp.runtime.onednn import faster
from mipp.runtime.record import Notes
from mipp.statistics.extremes import note_odd_numbers
from mipp.statistics.followed import Followed
from mipp.statistics.layouts import Layout, choose, features_together, kernel_basis, kernel_of, kernel_size
from mipp.statistics.moments import BlockMoments, Moments, Variances
from mipp.statistics.sampling import EVERYTHING, Sampling, thinned
from mipp.statistics.site_rows import SiteRows
from mipp.statistics.strides import may_turn, turn
from mipp.statistics.unfolding import channels_last, patches_of, places_of_weight

_WINDOW = ("stride", "padding", "dilation", "output_padding", "transposed")

Observer = Callable[[int, Mapping[str, Any], Tensor], None]
"""Called with the index of an op, its arguments by name (layers: as `as_layer` names them), and its first result.

The model may go on to work on them in place: an observer that keeps values keeps copies."""


@dataclass
class SiteStatistics:
    """Moments of the inputs of a linear layer or convolution, from one dense pass.

    Attributes:
        inputs: Moments of the inputs of each convolution group (features in the order of the flattened weight); where
            these fall into parts, of each part of each group. If "node-wise", the blocks of each group.
        weight: The weight itself.
        floor: Variance of the residual stream that each output is added to, in the output's own units, shape
            [outputs]; None where there is no stream.
        layout: Which second moments there are.
        parts: Features whose moments were taken together.
        basis: Taken of the kernel's positions before, shape [positions, frequencies]; None: the positions themselves.
    """

    inputs: Sequence[Moments | BlockMoments]
    weight: Tensor
    floor: Tensor | None = None
    layout: Layout = "unfolded"
    parts: Sequence[Tensor] = ()
    basis: Tensor | None = None

    @property
    def joint(self) -> list[Moments]:
        """Those of `inputs` in which features of several nodes go together: none if "node-wise"."""
        return [own for own in self.inputs if isinstance(own, Moments)]


def site_statistics(
    model: nn.Module,
    graph: PruningGraph,
    batches: Iterable[Batch],
    sampling: Sampling = EVERYTHING,
    limit: float = math.inf,
    notes: Notes | None = None,
    together: float = math.inf,
) -> dict[int, SiteStatistics]:
    """Streams the batches through the model once. Layers that read the same value share its moments.

    Args:
        model: Not changed.
        graph: Its pruning graph; every site that reads removable nodes is observed.
        batches: Calibration batches.
        sampling: Of which samples, and at how many of their positions, layers are looked at.
        limit: Bytes for all statistics; wide layers get coarser ones until they fit.
        notes: Gets a sentence for the report about these.
        together: Convolutions that read more numbers than this get coarser ones, too.

    Returns:
        Statistics by index of the op; of all uses of one weight together by that of the first.
    """
    model = working_copy(model)
    sites = {s.op: s for s in graph.distinct_sites if (s.reads >= 0).any()}
    first = {use: op for op, site in sites.items() for use in graph.uses(site)}
    layouts = choose(graph, list(sites.values()), limit, notes if notes is not None else Notes(), together)
    read = {op: _rows_of(graph, site, layouts[op]) for op, site in sites.items()}
    features = {op: max(map(len, own.parts)) for op, own in read.items()}
    stride = sampling.stride_of(graph, [(sites[op], count) for op, count in features.items()])
    limits = {op: sampling.positions(count, stride) for op, count in features.items()}
    after = {op: downstream(graph.program, graph.program.ops[op]) for op in sites}
    streams, most = {d.addition: Variances() for d in after.values() if d.addition >= 0}, sampling.positions(0, stride)
    twins, found = _find_twins(graph, list(sites.values())), dict[int, SiteStatistics]()

    def observer(index: int, arguments: Mapping[str, Any], result: Tensor) -> None:
        if index in streams:
            streams[index].update(channels_last(result, _channel_dim(graph.program, after, index), most, seen))
        if index in first:
            op, weight = first[index], arguments["weight"].detach()
            if twins[op] != op and twins[op] in found:
                found.setdefault(op, replace(found[twins[op]], weight=weight))
                return
            twins[op] = op  # a pass that took another way
            inputs = patches_of(sites[op], arguments, limits[op], seen)
            if op not in found:
                own, apart = read[op], layouts[op] == "node-wise"
                moments = _moments_of(own, len(inputs), inputs.device, apart=apart)
                own.begin([moment.update for moment in moments], apart=apart)
                found[op] = SiteStatistics(moments, weight, None, layouts[op], own.parts, own.basis)
            read[op].add(inputs)

    followed, turned, seen = Followed(), may_turn(graph.program), 0
    for batch, before in thinned(batches, stride, sampling.first):
        seen = before
        call = batch.call.map(turn) if turned else batch.call
        with followed.attempt(), name_batch(batch):
            observe(model, call, graph.program, [*first, *streams], observer, streams, followed.forms)
        with torch.inference_mode():  # as in the pass, where the moments were made
            for rows in read.values():
                rows.flush()
        for op in (op for op in found if twins[op] == op):
            check_finite(graph, sites[op], found[op].inputs, batch)
    followed.tell(notes)
    streams = {addition: own.pool() for addition, own in streams.items()}
    tensors = tensors_by_name(model)
    for op, statistics in sorted(found.items()):
        statistics.inputs = _pool(statistics, _places(graph, sites[op])) if twins[op] == op else found[twins[op]].inputs
        statistics.floor = _floor(graph.program, op, after[op], streams, tensors)
    if notes is not None:
        note_odd_numbers(graph.program, found, notes)
    return found


def _moments_of(
    rows: SiteRows, groups: int, device: torch.device, *, apart: bool
) -> Sequence[Moments] | Sequence[BlockMoments]:
    """Empty moments of every part of every group, or of what is kept `apart` in every group."""
    if apart:
        return [BlockMoments(rows.parts, device, torch.float32) for _ in range(groups)]
    return [Moments(len(part), device, torch.float32) for _ in range(groups) for part in rows.parts]


def _rows_of(graph: PruningGraph, site: Site, layout: Layout) -> SiteRows:
    kernel, size = kernel_of(graph, site), kernel_size(graph, site)
    basis = kernel_basis(size) if layout == "channel-wise" and kernel > 1 else None
    places = None if layout == "unfolded" else _places(graph, site)
    return SiteRows(features_together(site, kernel, layout), places, basis, in_steps=len(graph.uses(site)) > 1)


def _places(graph: PruningGraph, site: Site) -> Tensor:
    return places_of_weight(kernel_of(graph, site), len(site.reads))


def _pool(statistics: SiteStatistics, places: Tensor) -> Sequence[Moments | BlockMoments]:
    """The moments of all processes, with whole layers in the order of their weights."""
    moments = [own.pool() for own in statistics.inputs]
    ordered = statistics.layout != "unfolded" or torch.equal(places, torch.arange(len(places)))
    return moments if ordered else [own.at(places) for own in moments if isinstance(own, Moments)]


def rotate(features: Tensor, basis: Tensor | None) -> Tensor:
    """Features (or weights) with a basis taken of their kernel positions; shape [..., features] as before."""
    if basis is None:
        return features
    rotated: Tensor = features.unflatten(-1, (-1, len(basis))) @ basis.to(features)
    return rotated.flatten(-2)


def _find_twins(graph: PruningGraph, sites: Sequence[Site]) -> dict[int, int]:
    """For every site the first that reads the same value in the same way, such as the query's for keys and values."""
    first: dict[Hashable, int] = {}
    twins: dict[int, int] = {}
    for site in sorted(sites, key=lambda site: site.op):
        op = graph.program.ops[site.op]
        arguments = as_layer(op.name, op.arguments)
        how = tuple((name, str(value)) for name, value in arguments.items() if name in _WINDOW)
        key = (
            arguments["input"],
            op.name,
            kernel_size(graph, site),
            site.groups,
            site.reads_axis,
            site.reads.tobytes(),
            how,
        )
        alone = len(graph.uses(site)) == 1 and isinstance(arguments["input"], Ref)
        twins[site.op] = first.setdefault(key, site.op) if alone else site.op
    return twins


def check_finite(
    graph: PruningGraph, site: Site, seen: Iterable[Tensor | Moments | BlockMoments], batch: Batch
) -> None:
    """Refuses what a site reads or writes of a batch, or moments that the batch was added to, if they are no numbers.

    Raises:
        CalibrationError: A value is NaN or infinite.
    """
    if not all(bool(torch.isfinite(s if isinstance(s, Tensor) else s.mean).all()) for s in seen):
        report_not_finite(graph, site, batch)


def report_not_finite(graph: PruningGraph, site: Site, batch: Batch) -> NoReturn:
    """Names the site and the batch of which it reads or writes what is no number.

    Raises:
        CalibrationError: Always.
    """
    read = [n for n, g in graph.groups.items() if g.holds(site.reads).any()]
    groups = f" of group {' and '.join(map(repr, read))}" if read else ""
    raise CalibrationError(
        f"What '{graph.program.ops[site.op].module}' reads{groups} or writes holds NaN or infinite values in "
        f"calibration batch {batch.number} (counted from 0). Leave the batch out, or check the scale of the inputs and "
        "the weights before."
    )


def _channel_dim(program: Program, after: Mapping[int, Downstream], addition: int) -> int:
    site = next(op for op, d in after.items() if d.addition == addition)
    return channel_dim(program.ops[site])


def _floor(
    program: Program, op: int, after: Downstream, streams: Mapping[int, Variances], tensors: Mapping[str, Tensor]
) -> Tensor | None:
    """The variance of the stream that an op writes to, in units of what it writes; a norm has one for all channels."""
    if after.addition < 0 or not streams[after.addition].count:
        return None
    variance = streams[after.addition].variance
    if row_norm_behind(program, program.ops[op], after) is not None:
        variance = variance.mean().expand_as(variance)
    if after.norm < 0:
        return variance
    squared = norm_scale(program, after.norm, tensors).square()
    return variance / squared.clamp_min(1e-12 * float(squared.max()) + 1e-30)


class _Watch(OpStream):
    """Hands ops to an observer: layers are known by their use, other ops by the layer whose output reaches them."""

    def __init__(self, model: nn.Module, program: Program, wanted: Collection[int], observer: Observer) -> None:
        super().__init__()
        self.program, self.wanted, self.observer = program, set(wanted), observer
        self.modules = [""]
        self.reached: Counter[int] = Counter()
        self._names = {key: name for key, (name, origin) in canonical_names(model).items() if origin == "parameter"}
        self._uses = {use: index for index, use in uses_of(program).items()}
        self._turns: Counter[tuple[str, str]] = Counter()
        self.most = Counter((use.module, use.weight) for use in self._uses)
        layers = set(self._uses.values())
        self.behind = {index: _path_behind(program, index, self.wanted) for index in wanted if index in layers}
        self._followed = {program.ops[index].name.rstrip("_") for path in self.behind.values() for index in path}
        self._ahead: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # for a value, the ops that it is to reach

    def on_op(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        func = STRIDELESS.get(func, func)
        name = func.overloadpacket.__name__.rstrip("_")
        if name not in self._followed and not is_layer(name):
            return call_op(func, args, kwargs)
        schema = func._schema.arguments
        given = dict(zip((a.name for a in schema), args, strict=False)) | kwargs
        index, following = self._find(name, given)
        if index is None:
            return call_op(func, args, kwargs)
        run, taken = faster(func, args)
        if index in self.wanted:
            full = {a.name: given.get(a.name, a.default_value) for a in schema}
            read = map_tensors(full, Tensor.clone) if func._schema.is_mutable else full  # before the op changes it
            out = call_op(run, taken, kwargs)
            self.reached[index] += 1
            self.observer(index, as_layer(name, read), out if isinstance(out, Tensor) else out[0])
        else:
            out = call_op(run, taken, kwargs)
        if following:
            self._ahead[out if isinstance(out, Tensor) else out[0]] = following
        return out

    def on_copy(self, tensor: Tensor, copied: Tensor) -> None:
        if following := self._ahead.get(tensor):
            self._ahead[copied] = following

    def _find(self, name: str, given: Mapping[str, Any]) -> tuple[int | None, Sequence[int]]:
        """The op of the program that this one is, and those behind it that are on the way to wanted ones."""
        if is_layer(name):
            index = self._use(name, given)
            return index, self.behind.get(index, ()) if index is not None else ()
        for tensor in tensors_in(list(given.values())):
            following = self._ahead.get(tensor)
            if following and self.program.ops[following[0]].name.rstrip("_") == name:
                return following[0], following[1:]
        return None, ()

    def _use(self, name: str, given: Mapping[str, Any]) -> int | None:
        """The layer of the program that this one is; one that takes more turns is at each of them its last."""
        weight = self._names.get(id(given.get(weight_argument(name))), name)
        key = self.modules[-1], weight
        turn, most = self._turns[key], self.most[key]
        self._turns[key] += 1
        return self._uses[Use(*key, min(turn, most - 1))] if most else None

    def run(self, model: nn.Module, call: Call) -> Any:
        """Calls the model and returns its output."""
        with module_stack(model, self.modules), self:
            return run(model, call.map(Tensor.clone))

    def may_lose(self, call: Call, dispensable: Collection[int]) -> bool:
        """True if values or shapes may lead to another path, and that is no matter of indifference."""
        needed = any(self._ends(path, dispensable) for path in self.behind.values())
        computed = any(not weight_name(self.program, self.program.ops[index]) for index in self.behind)
        shapes = [self.program.values[index].shape for index in self.program.inputs]
        return (needed or computed) and (bool(self.program.guards) or shapes != [t.shape for t in call.tensors])

    def _ends(self, path: Sequence[int], dispensable: Collection[int]) -> list[int]:
        return [op for op in path if op in self.wanted and op not in dispensable]

    def loss(self, dispensable: Collection[int]) -> UnsupportedModelError | None:
        """The error where layers cannot be told from each other, or other ops do not follow them, if they do not."""
        for index, path in self.behind.items():
            key = next(use for use, there in self._uses.items() if there == index)[:2]
            ends = self._ends(path, dispensable)
            lost = next((op for op in ends if self.reached[op] != self.reached[index]), None)
            if not weight_name(self.program, self.program.ops[index]):
                lost = index if self._turns[key] != self.most[key] else lost
            if lost is not None:
                op = self.program.ops[lost]
                return UnsupportedModelError(
                    f"The model takes another path on other data: {op.name} at {op.source} is not called as it was in "
                    "the first batch. Statistics need it there; leave out the batches that take the other path."
                )
        return None


def _path_behind(program: Program, index: int, wanted: Collection[int]) -> list[int]:
    """The ops that an output goes through one after the other, up to the last wanted one or the next layer."""
    path: list[int] = []
    value, end = program.ops[index].outputs[0], 0
    while len(program.readers[value]) == 1:
        op = program.ops[program.readers[value][0]]
        if is_layer(op.name) or not op.outputs:
            break
        path.append(op.index)
        end = len(path) if op.index in wanted else end
        value = op.outputs[0]
    return path[:end]


def observe(
    model: nn.Module,
    call: Call,
    program: Program,
    wanted: Sequence[int],
    observer: Observer,
    dispensable: Collection[int] = (),
    known: set[Hashable] | None = None,
) -> Any:
    """Runs a model on one batch and hands the ops in `wanted` (indices in `program`) to `observer`; returns the output.

    The pass need not take the path of the program: layers are known by their weight, their module and their turn (one
    that takes more turns, as a recurrent one on longer sequences, is handed over as its last), other ops by the layer
    whose output they read. Layers that it leaves out are not handed over.

    Where it may lose one that is needed, a pass that is not observed goes ahead: of forms of calls that are `known` to
    be followed, only where code reads values.

    Raises:
        StrayedError: An op that is not dispensable is lost, although its layer is there; the observer saw nothing.
        UnsupportedModelError: The same, where nothing but the pass itself shows that it may take another path.
    """
    watch = _Watch(model, program, wanted, observer)
    known = set() if known is None else known
    if (program.guards or call.form not in known) and watch.may_lose(call, dispensable):
        ahead = _Watch(model, program, wanted, lambda *_: None)
        ahead.run(model, call)
        if lost := ahead.loss(dispensable):
            raise StrayedError(str(lost))
        known.add(call.form)
    output = watch.run(model, call)
    if lost := watch.loss(dispensable):
        raise lost
    return output
