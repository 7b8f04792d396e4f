"""Refits the weights behind removed nodes, by least squares on unlabelled data.

Sites are refitted from input to output: those that read removed nodes, and those that read what these have changed.
Each is fitted from what it reads in the *pruned* network to what it wrote in the *dense* one; where its output is added
to a residual stream, the error the stream has gathered so far is added to the target, so that later blocks repair
earlier ones. Dense and pruned activations advance together through the straight-line program, so the whole costs about
one dense and two pruned passes over the calibration data; where images are read in variations, that many times more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from math import ceil, prod

import numpy as np
import torch
from torch import Tensor, nn

from mipp.data.augmentation import Varied
from mipp.data.calibration import Batch
from mipp.errors import UnsupportedModelError
from mipp.graph.downstream import Downstream, downstream, norm_scale
from mipp.graph.layers import bias_of, channel_dim, input_of
from mipp.graph.nodes import Site
from mipp.graph.program import Op, Program
from mipp.modules.copies import full_copy, tensors_by_name
from mipp.plan.effort import MOST_SAMPLES
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.refit.biases import add_biases, spare_params
from mipp.refit.folds import folds_of
from mipp.refit.recurrence import Recorded, cut_short, reads_itself
from mipp.refit.regression import FIRST_RIDGE, Regression, best_ridge
from mipp.refit.relu import Rectified, by_group
from mipp.refit.rows import (
    errors_before,
    errors_behind,
    in_rows,
    is_scarce,
    make_outputs,
    row_weights,
)
from mipp.refit.settings import Refit
from mipp.refit.sums import runs_within
from mipp.refit.targets import Target, Uses, feeder, learner_of, names_left_as_cut, offset_place, targets_of, variations
from mipp.refit.through_time import ThroughTime
from mipp.refit.unrolled import Unrolled
from mipp.refit.work import Best, Pass, Run, Work, total
from mipp.runtime.distributed import gather
from mipp.runtime.tensor_store import format_bytes
from mipp.statistics.followed import tell_left_out
from mipp.statistics.observing import report_not_finite
from mipp.statistics.replay import Stream, Visit
from mipp.statistics.sampling import rows_of_sample
from mipp.statistics.unfolding import align, channels_last, kernel_positions, patches_of, places_of_weight

_MOVED = 300  # operations that go by while one value of the layer is computed, put away and fetched


@torch.no_grad()
def refit(small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, options: Refit) -> list[str]:
    """Refits `small` in place.

    Args:
        small: The cut model.
        dense: The model it was cut from.
        plan: What was cut.
        task: What the plan was made from; its memory says what the second moments of one layer may take.
        options: How to refit.

    Returns:
        Sentences for the report: which layers could not be refitted, and which were in blocks.

    Raises:
        UnsupportedModelError: The model cannot be run in pieces; `small` is as it was.
    """
    targets = targets_of(plan, task.graph)
    names = ", ".join(name or "the model itself" for name in names_left_as_cut(plan, task.graph, targets))
    left = [f"Left as cut, as other ops read the weight too, or it is computed or complex: {names}."] if names else []
    if not targets:
        return left
    if options.allow_bias:
        dense = full_copy(dense)
        layers = {target.weight: target.uses[0].op for target in targets}
        left += add_biases((dense, small), layers, task.graph.program, spare_params(plan, task))
    options = replace(options, variations=variations(small, targets, task, options))
    work = _Refitter(small, dense, plan, task, options)
    starts = [task.graph.program.start_of(target.uses[0].op) for target in targets]
    steps = task.progress(targets, "compensation", costs=[work.cost(target) for target in targets])
    for target, following in zip(steps, [*starts[1:], starts[-1]], strict=True):
        work.refit(target, following)
    return [*left, *work.notes()]


class _Refitter:
    """Refits weight after weight, while the dense and the cut model advance together."""

    def __init__(self, small: nn.Module, dense: nn.Module, plan: PruningPlan, task: Task, options: Refit) -> None:
        batches: Sequence[Batch] = task.batches
        self.graph = graph = task.graph
        self.ridge, self.limit = options.ridge, task.memory.statistics
        self.tensors = tensors_by_name(small)  # refitted in place
        self.store = task.memory.store
        own = [batch.samples for batch in batches]
        first, samples = task.place()
        starts = list(accumulate(own, initial=first))[:-1]
        times = options.variations or 0
        self.first_samples = starts * (1 + times)
        self.positions, self.samples, self.effort = options.positions, samples, task.effort
        self.always_vary = times > 0 and options.variations is not None
        self.own = len(batches)
        batches = Varied(batches, times, starts, samples, self.store) if times else batches
        self.full = Stream(dense, batches, graph, self.store)
        self.cut = Stream(small, batches, graph, self.store, beside=self.full)
        self.in_blocks: dict[str, int] = {}
        self.keep = graph.keep_mask({name: nodes or (0,) for name, nodes in plan.kept.items()})
        self.found_ridge = FIRST_RIDGE
        self.standing_in = [graph.groups[name].first_node for name in plan.collapsed]

    def refit(self, target: Target, following: int) -> None:
        """Refits one weight and moves the dense model on to op `following`."""
        self.store.give_back()  # of the weight before
        self.cut.advance(self.graph.program.start_of(target.uses[0].op))
        self._check_followed()
        work = self._prepare(Target(target.weight, [self._as_cut(site) for site in target.uses]))

        def stay(visit: Visit) -> None:
            self.full.visit(target.wanted, visit, work.count)

        def move_on(visit: Visit) -> None:
            self.full.advance(following, target.wanted, lambda i, dense: visit(i, dense) if i < work.count else None)

        def take(index: int, dense: dict[int, Tensor]) -> dict[int, Tensor]:
            sites = Uses.of(target, self.full.path(index)).sites
            return cut_short(dense, sites, self.cut.path(index).program.values, self.keep)

        if (best := work.best) is None:
            self._fit(work, stay, move_on)
            return

        recorded = Recorded(move_on, self.store, self.full.left_out, take)
        for number in range(self.effort.rounds):
            best.settle(partial(self._error, work, recorded))
            self._fit(replace(work, is_taught=number == 0), recorded.play, recorded.play)
        best.settle(partial(self._error, work, recorded))
        if self.effort.through_time and len(work.blocks) == 1:
            self._fit_through_time(target, recorded)
        recorded.release()

    def _fit_through_time(self, target: Target, recorded: Recorded) -> None:
        """Fits the weight of the states, and that of the inputs, through all steps together."""
        fed_by = feeder(self.graph, target, self.graph.program.start_of(target.uses[0].op))
        targets = [target, *([fed_by] if fed_by is not None else [])]
        uses = lambda index: [Uses.of(one, self.full.path(index)) for one in targets]  # noqa: E731
        unrolled = Unrolled(self.cut, uses, self.first_samples, self.store)
        recorded.play(unrolled.put)
        if unrolled.bytes_of_gradients <= self.limit:
            silent = (self._silent_inputs(one.uses[0], self._weight(one), slice(None)) for one in targets)
            learners = [learner_of(*one, self.graph.program, self.tensors) for one in zip(targets, silent, strict=True)]
            ThroughTime(learners, unrolled).fit(self.effort.through_time)
        unrolled.release()

    def _prepare(self, target: Target) -> Work:
        count, self.taken = self._choose_rows(target)
        program, op, after = self._example(target)
        blocks, scale = self._blocks(target, count), self._scale(program, after)
        rectified = Rectified(*scale, self.store) if len(blocks) == 1 and self._read_by_relu(target) else None
        bias = offset_place(program, op, after if len(target.uses) == 1 else Downstream(), len(target.uses))
        bias_scale = torch.ones(()) if bias_of(op) is not None else scale[0]  # without a bias the batch norm takes it
        best = Best([self.tensors[name] for name in (target.weight, bias) if name]) if self._own(target) else None
        return Work(target, count, blocks, bias, bias_scale, rectified, best)

    def _own(self, target: Target) -> bool:
        """True if what a weight reads depends on what it wrote, on the path of some batch."""
        paths = {self.full.path(index) for index in self.full.indices()}
        uses = [(path.program, [op for site in target.uses for op in path.uses(site)]) for path in paths]
        return any(gather(any(reads_itself(*one) for one in uses)))

    def _fit(self, work: Work, stay: Run, move_on: Run) -> None:
        """Fits a weight once, block of inputs after block: each starts from the residual that the others leave."""
        target, offset = work.target, torch.zeros(())
        for columns in work.blocks:
            found = Pass(columns, self._regression(target, columns, centred=bool(work.bias)))
            (move_on if columns is work.blocks[-1] else stay)(partial(self._read, work, found))
            if found.is_empty:
                return
            if work.best is None:
                self._check_finite(target, found.finite)
            elif not found.is_finite():
                return
            offset = self._solve(target, found, work.rectified)
        if work.bias:
            tensor = self.tensors[work.bias]
            tensor.add_((offset * work.bias_scale).to(tensor))

    def _read(self, work: Work, found: Pass, index: int, dense: dict[int, Tensor]) -> None:
        """Adds the rows of a batch."""
        target, uses, first = work.target, Uses.of(work.target, self.full.path(index)), self.first_samples[index]
        pruned = self.cut.values(index, partial(target.read, is_taught=work.is_taught))
        for site, op, behind in uses.sites:
            read, scale = input_of(op), self._scale(uses.program, behind)
            if work.is_taught:
                pruned[read] = dense[read]
                behind = replace(behind, other=-1) if behind.other in uses.written else behind
            inputs, sides = self._compare(target, index, (site, op, behind), (dense, pruned))
            missing = errors_behind(sides, behind, scale[1])
            folds = folds_of(len(missing), self.full.batches[index].samples, first)
            weights, rows = row_weights(uses.program, op, behind, sides), inputs[:, :, found.columns]
            found.add(index, (rows, by_group(missing, len(rows)), folds, weights), last=op is uses.sites[-1][1])
            if work.rectified is not None:
                wanted = self._wanted(site, op, dense[uses.joined], pruned[read], sides[0][1], first)
                work.rectified.update(rows, missing, wanted, wanted - errors_before(sides, scale[0]), folds)

    def _error(self, work: Work, recorded: Recorded) -> float:
        """The squared error of the network as it runs by itself, on the first batches of all processes."""
        squared: list[Tensor] = []

        def add(index: int, dense: dict[int, Tensor]) -> None:
            uses, pruned = Uses.of(work.target, self.full.path(index)), self.cut.values(index, work.target.read)
            for use in uses.sites:
                _, sides = self._compare(work.target, index, use, (dense, pruned))
                missing = errors_behind(sides, use[2], self._scale(uses.program, use[2])[1])
                squared.append(missing.square().sum(dtype=torch.float64))

        recorded.play(add, recorded.first(self.full.batches))
        return total(squared)

    def _compare(
        self, target: Target, index: int, use: tuple[Site, Op, Downstream], values: Sequence[Mapping[int, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The inputs of a layer in the cut network, and its outputs and the stream that it joins, dense and pruned.

        Args:
            target: Its weight.
            index: The batch.
            use: The site, its op and what follows.
            values: Those of the dense and of the pruned model.

        Returns:
            Shape [groups, rows, inputs]; pairs of [rows, outputs that are kept].
        """
        (site, op, behind), (dense, pruned), bound = use, values, self.cut.path(index).bound
        x, out, first = pruned[input_of(op)], pruned.get(op.outputs[0]), self.first_samples[index]
        inputs = self._inputs(site, op, x, index, target.weight)
        made = self._rows(op, out, first) if out is not None else self._make(target, {**bound, **pruned}, op, inputs)
        sides = [(self._wanted(site, op, dense[op.outputs[0]], x, made, first), made)]
        if behind.other >= 0:
            here = self._rows(op, pruned[behind.other], first)
            sides.append((self._wanted(site, op, dense[behind.other], pruned[behind.other], here, first), here))
        return inputs, sides

    def _example(self, target: Target) -> tuple[Program, Op, Downstream]:
        """The first op with the weight, and what follows it, in the program of some batch; if in none, of the graph."""
        uses = (Uses.of(target, self.full.path(index)) for index in self.full.indices())
        found = next((one for one in uses if one.sites), None)
        if found is not None:
            return found.program, *found.sites[0][1:]
        program = self.graph.program
        op = program.ops[target.uses[0].op]
        return program, op, downstream(program, op)

    def _read_by_relu(self, target: Target) -> bool:
        """True if nothing but ReLUs reads what the layer leads to, on the path of every batch that comes by it."""
        paths = (Uses.of(target, self.full.path(index)) for index in self.full.indices())
        return all(gather(len(target.uses) == 1 and all(uses.joined >= 0 for uses in paths if uses.sites)))

    def _check_followed(self) -> None:
        """Refuses to go on without data.

        Raises:
            UnsupportedModelError: Every batch is left out.
        """
        if not sum(gather(len(self.full.indices()))):
            raise next(iter(self.full.left_out.values()), UnsupportedModelError("there are no batches"))

    def cost(self, target: Target) -> float:
        """Operations that it takes to refit a weight, up to a factor: moments, solutions, and moving on to it."""
        inputs, program = self._weight(target)[0].numel(), self.graph.program
        written = prod(program.values[program.ops[target.uses[0].op].outputs[0]].shape) / self.graph.batch
        return float(inputs**2 * (self.effort.rows_for(inputs) + 4 * inputs) + _MOVED * self.samples * written)

    def _as_cut(self, site: Site) -> Site:
        """The site with the groups that are left of a convolution that lost whole ones."""
        paths = (self.cut.path(index) for index in self.cut.indices())
        op = next((op for path in paths for op in path.uses(site)), None)
        return replace(site, groups=op.arguments.get("groups", site.groups)) if op is not None else site

    def notes(self) -> list[str]:
        """Sentences for the report."""
        found = []
        if self.in_blocks:
            names = ", ".join(f"{name} ({count})" for name, count in self.in_blocks.items())
            reason = f"because memory_limit leaves {format_bytes(self.limit)} for second moments"
            found.append(f"Refitted in blocks of inputs, one block after the other, {reason}: {names}.")
        if left := self.full.left_out:
            found.append(tell_left_out(len(self.full.batches), left.values(), "the refit"))
        return found

    def _blocks(self, target: Target, batches: int) -> list[slice]:
        """Runs of inputs that can be solved for within memory, one run if they all can."""
        weight, site = self._weight(target), target.uses[0]
        taken = min(rows_of_sample(site, self.graph), self.taken)
        rows = len(target.uses) * taken * self.samples * batches / self.own
        found = runs_within(self.limit, rows, weight[0].numel(), len(weight) // site.groups, site.groups)
        if len(found) > 1:
            self.in_blocks[target.weight] = len(found)
        return found

    def _inputs(self, site: Site, op: Op, x: Tensor, batch: int, weight: str) -> Tensor:
        arguments = self.cut.path(batch).program.ops[op.index].arguments
        tensors = {"input": x, "weight": site.swap_axes(self.tensors[weight])}
        return patches_of(site, {**arguments, **tensors}, self.taken, self.first_samples[batch])

    def _choose_rows(self, target: Target) -> tuple[int, int]:
        """Number of batches that a layer is fitted to, without the varied ones where it needs none; and positions."""
        weight = self._weight(target)
        site, tensor = target.uses[0], self.tensors[target.weight]
        vary = self.always_vary or is_scarce(site, tensor, self.graph, self.samples)
        count = len(self.full.batches) if vary else self.own
        rows = self.effort.rows_for(weight[0].numel())
        return count, self.positions or ceil(rows / min(self.samples, MOST_SAMPLES) * self.own / count)

    def _weight(self, target: Target) -> Tensor:
        """The cut weight as [outputs, inputs per group, ...]."""
        return target.uses[0].swap_axes(self.tensors[target.weight])

    def _wanted(self, site: Site, op: Op, dense: Tensor, beside: Tensor, here: Tensor, first: int) -> Tensor:
        """A dense value behind a site at the rows and outputs that are kept.

        Args:
            site: The site.
            op: Its op.
            dense: The value.
            beside: A value of the pruned model with the same axes in front.
            here: The same value in the pruned model, shape [rows, outputs].
            first: Number of the first sample.
        """
        there = self._rows(op, align(dense, beside.shape, site.rows_to_keep(self.keep)), first)
        return align(there, here.shape, {1: site.outputs_to_keep(self.keep)})

    def _rows(self, op: Op, value: Tensor, first: int) -> Tensor:
        """A value behind a layer at the positions that are taken, shape [rows, outputs]."""
        return channels_last(value, channel_dim(op), self.taken, first)

    def _make(self, target: Target, values: Mapping[int, Tensor], op: Op, inputs: Tensor) -> Tensor:
        """The outputs of a layer in the cut network, of these rows alone, shape [rows, outputs]."""
        bias = bias_of(op)
        weight = in_rows(self._weight(target), len(inputs))
        return make_outputs(inputs, weight, None if bias is None else values[bias.index])

    def _scale(self, program: Program, after: Downstream) -> tuple[Tensor, Tensor]:
        """Factor per channel that the batch norm behind a site applies, and its inverse; one where there is none."""
        if after.norm < 0:
            one = torch.ones((), dtype=torch.float64)
            return one, one
        scale = norm_scale(program, after.norm, self.tensors)
        return scale, scale / (scale.square() + 1e-6 * scale.square().mean() + 1e-30)

    def _regression(self, target: Target, columns: slice, *, centred: bool) -> Regression:
        weight, groups = self._weight(target), target.uses[0].groups
        inputs = len(range(*columns.indices(weight[0].numel())))
        return Regression(groups, inputs, len(weight) // groups, centred=centred, device=weight.device)

    def _check_finite(self, target: Target, seen: Sequence[tuple[int, Tensor]]) -> None:
        """Refuses batches of which a layer reads or writes what is no number; asks the device once.

        Args:
            target: What is refitted.
            seen: The batch of every use, and whether all was finite there.
        """
        if seen and not all(torch.stack([fine for _, fine in seen]).tolist()):
            index = next(index for index, fine in seen if not fine)
            report_not_finite(self.graph, target.uses[0], self.full.batches[index])

    def _solve(self, target: Target, found: Pass, rectified: Rectified | None = None) -> Tensor:
        """Adds to the weight what takes the residual away; returns what to add to the outputs, shape [outputs]."""
        weight, columns, regression = self._weight(target), found.columns, found.regression
        self.store.give_back()  # of what was made on the way
        regression.silence(self._silent_inputs(target.uses[0], weight, columns).to(weight.device))
        solver = regression.solver()
        self.found_ridge = self.ridge or best_ridge(solver, self.found_ridge)
        fit = solver.solve(self.found_ridge)
        fit = rectified.refine(fit, regression) if rectified is not None else fit
        whole = fit.change.mT.flatten(0, 1)
        if len(whole[0]) < weight[0].numel():  # of a block
            whole, block = whole.new_zeros(len(weight), weight[0].numel()), whole
            whole[:, columns] = block
        kernel = kernel_positions(weight)
        whole = whole[:, places_of_weight(kernel, weight.shape[1])] if kernel > 1 else whole
        change = target.uses[0].swap_axes(whole.reshape(weight.shape))
        self.tensors[target.weight].add_(change.to(weight.dtype))
        return fit.offset.flatten()

    def _silent_inputs(self, site: Site, weight: Tensor, columns: slice) -> Tensor:
        """The inputs of a cut weight that come from nodes standing in for collapsed groups; they stay silent."""
        reads = site.reads[site.inputs_to_keep(self.keep)]
        silent = np.tile(np.isin(reads, self.standing_in), kernel_positions(weight))
        return torch.from_numpy(np.flatnonzero(silent[columns]))
