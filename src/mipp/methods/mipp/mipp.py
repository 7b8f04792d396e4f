"""Mutual information preserving pruning, in closed form or with the paper's perceptrons.

Source: Westphal, Hailes & Musolesi, Mutual Information Preserving Neural Network Pruning, arXiv 2411.00147.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch

from mipp.errors import CalibrationError, MippError, MissingRequirementError, UnsupportedModelError
from mipp.estimators import MLP, Estimator, Gaussian, Information, Samples, estimate, make_estimator
from mipp.graph.bottlenecks import is_chain
from mipp.graph.nodes import NodeGroup
from mipp.methods.mipp.carried import Kept, Source, by_moments, by_samples, measured, part_in_target, target_shrank
from mipp.methods.mipp.few import FEW, may_ask, order_by_outputs
from mipp.methods.mipp.trials import try_others
from mipp.methods.mipp.worth import WHOLLY, asking, measure_worth, weigh
from mipp.plan.allocation import allocate, kinds
from mipp.plan.budget import Budget
from mipp.plan.elimination import (
    Elimination,
    Order,
    Progress,
    backward_elimination,
    elimination_along,
    terc,
    with_scarcity,
)
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.runtime.settings import check_settings
from mipp.statistics.layer_samples import Activation, Collapse, Reading

NOISE, NOISE_IN_CHAINS = 1.0, 10.0
Direction = Literal["backward", "forward"]
Price = Callable[[Mapping[str, Elimination]], Mapping[str, Elimination]]
"""Makes the losses of groups, in nats, what the allocation compares."""


@dataclass(frozen=True)
class MIPP:
    """Removes the nodes whose removal costs the layers that read them the least information.

    Groups are taken from the outputs to the inputs. The target of a group is what the weights that read it write: the
    nodes *kept* downstream, and where those write to a residual stream, the stream (its noise floor is the stream's, or
    where a norm divides each row of that by one number, the same in all channels).

    Attributes:
        estimator: "gaussian", the closed form; "surrogate", one perceptron per layer trained under random masks; "mlp",
            the paper's perceptrons; or one with settings, such as `mipp.estimators.MLP(hidden=(64, 64))`.
        order: "greedy" re-scores after each removal; "mi" goes through the nodes once, least informative first,
            and "loss" those first whose loss is least while all others are there (leave one out).
        collapse: None makes every position of a map a sample; "l1", "l2", "mean" and "std" make one number of each map.
        confidence: Without a target in the budget: keep a node if it is at least this sure that it carries information;
            to make widths multiples of `round_to`, or `uniform`, the most informative of the others stay too.
        noise: Gaussian: variance of the noise on the target, relative to the target's own variance; 0 is off. The
            test of a confidence draws it with the samples, so that its level is exact. Where second moments suffice the
            target is a known linear map of the nodes: none of them adds nothing, and the noise says what counts. None
            is 10 where a budget is to be met in a chain: nats are then nearly shares of variance, and so is what the
            outputs feel, by which they are weighed there. It is 1 elsewhere.
        direction: "backward" goes from the outputs to the inputs, with the nodes kept downstream as the target;
            "forward" goes from the inputs to the outputs, with all nodes downstream as the target.
        activation: The target is the output of the next layer before its non-linearity, "pre", or after it, "post".
        margin: With a confidence: a node has to carry more than this many nats.
        positions: At most this many positions of each sample enter the statistics of one layer; second moments take
            fewer, of fewer samples, where that makes rows enough (see `mipp.plan.effort`), and of sequences others in
            each sample.
        steps: With a budget: number of steps in which it is reached. In each of them what a node carries is measured
            again, towards the nodes that the step before keeps downstream. None is 4 in chains, and elsewhere one for
            each halving of what the budget limits, at most 4.
        share: With a confidence: and more than this share of what all nodes of its group carry. Without either, more
            samples make more nodes significant; with one, the choice settles.
        worth: With a budget: "nats" takes the nats of all groups for equal; "outputs" measures, for each group, how far
            the outputs move when half of its nodes go, and scales its losses to that. "auto" does so where a nat of one
            layer can be worth many of another: wholly where streams are normalised row by row, as in transformers, and
            halfway (the geometric mean) in chains, such as a VGG, where nothing goes around a layer. Residual
            convolutional networks gain nothing by it. Where it is measured wholly, groups of 4 to 16 nodes, such as
            heads, are ordered by how far the outputs move without them, where that is clearly better. It needs
            `estimator="gaussian"`, `collapse=None` and `activation="pre"`.
        trials: With a budget: up to so many other networks are made and refitted, first of other widths, where one
            group gives a tenth of its nodes away for nodes of another, then of other nodes, where one that stays
            changes places with one that goes. What comes nearest to the dense outputs on the calibration data stays. A
            trial takes about as long as the refit.
    """

    estimator: str | Estimator = "gaussian"
    order: Order = "greedy"
    collapse: Collapse | None = None
    confidence: float | None = None
    noise: float | None = None
    direction: Direction = "backward"
    activation: Activation = "pre"
    margin: float = 0.0
    positions: int = 64
    steps: int | None = None
    share: float = 0.0
    worth: Literal["auto", "outputs", "nats"] = "auto"
    trials: int = 0

    def __post_init__(self) -> None:
        check_settings(self, trials="[0, inf)")
        make_estimator(self.estimator)
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise MippError(f"MIPP(confidence={self.confidence}): expected a number in [0.5, 1).")
        fewest = self.positions if self.steps is None else min(self.positions, self.steps)
        if not (0 <= self.usual_noise < math.inf and self.margin >= 0) or fewest < 1:
            raise MippError(
                f"MIPP(noise={self.noise}, margin={self.margin}, positions={self.positions}, steps={self.steps}): "
                "expected noise and margin of 0 or more, and at least one position and one step."
            )
        if not 0 <= self.share < 1:
            raise MippError(f"MIPP(share={self.share}): expected a share of the information, in [0, 1).")

    @classmethod
    def paper(cls, **overrides: Any) -> "MIPP":
        """The settings of arXiv 2411.00147 v1: three perceptrons 2 x 256, single pass, L1-collapsed maps.

        Args:
            overrides: Fields of `MIPP` and of `mipp.estimators.MLP`, which is the result's `estimator`. VGG:
                `retrain_iterations=20`. The confidence drives the sparsity; see `mipp.confidence_schedule`.
        """
        settings = {f.name for f in fields(MLP)}
        own = {name: value for name, value in overrides.items() if name not in settings}
        estimator = MLP(**{name: value for name, value in overrides.items() if name in settings})
        faithful = {"order": "mi", "collapse": "l1", "confidence": 0.95, "noise": 0.0, "activation": "post", "steps": 1}
        unknown = own.keys() - {f.name for f in fields(cls)}
        if unknown:
            names = sorted(settings | {f.name for f in fields(cls)})
            raise MippError(f"MIPP.paper has no {', '.join(sorted(unknown))}; it has {', '.join(names)}.")
        return cls(**{"estimator": estimator, **faithful, **own})

    @classmethod
    def paper_v2(cls, **overrides: Any) -> "MIPP":
        """The later version: after a node is masked up to 100 epochs of 20 batches, with early stopping."""
        return cls.paper(**{"retrain_iterations": 2000, **overrides})

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Chooses the nodes to keep.

        Raises:
            MissingRequirementError: Neither a budget nor a confidence says how much to remove.
            CalibrationError: There are too few samples for a test.
        """
        if not budget.has_target and self.confidence is None:
            raise MissingRequirementError(
                "MIPP needs to know how much to remove: pass budget=mipp.Budget(macs=0.5) or another target, or "
                "mipp.methods.MIPP(confidence=0.95) to let the test decide."
            )
        source = self._source(task, self._noise_for(task, budget), test=not budget.has_target)
        if not budget.has_target:
            return self._by_test(task, source, budget)
        whole = {
            group.name: self._elimination(task, source, group, {})
            for group in self._groups(task)
            if group.name not in budget.widths
        }
        price = self._price(task, whole) if whole and budget.limits(task.cost) else _scarce
        curves = price(self._towards_kept(task, source, budget, whole, price))
        widths = allocate(curves, task.cost, budget, measure=task.measure).widths
        choose = partial(self._by_width, task, source, budget, known=whole)
        plan = choose(widths)
        if not (self.trials and whole and budget.limits(task.cost)):
            return plan
        return try_others(task, budget, plan, curves, choose, self.trials)

    def information(self, task: Task) -> dict[str, float]:
        """The information that every group carries to its readers, in nats."""
        source = self._source(task, self.usual_noise)
        return {name: source(group, {}).total() for name, group in task.graph.groups.items()}

    @property
    def usual_noise(self) -> float:
        """The noise wherever no budget has to be met in a chain."""
        return NOISE if self.noise is None else self.noise

    def estimate(self, samples: Samples, generator: torch.Generator) -> Information:
        """The information that samples hold, by this method's estimator."""
        return estimate(self.estimator, samples, generator)

    def _groups(self, task: Task) -> Sequence[NodeGroup]:
        groups = list(task.graph.groups.values())
        return groups if self.direction == "forward" else groups[::-1]

    def _towards_kept(
        self, task: Task, source: Source, budget: Budget, whole: Mapping[str, Elimination], price: Price
    ) -> Mapping[str, Elimination]:
        """The information about the nodes still kept that removals lose, measured at each step towards the budget."""
        curves = whole
        steps = self._steps(task, budget)
        for step in range(1, steps if budget.limits(task.cost) else 1):
            eased = budget.ease(task.cost, step / steps)
            widths = allocate(price(curves), task.cost, eased, measure=task.cost.estimate).widths
            kept = {name: curve.kept(widths[name]) for name, curve in curves.items()}
            curves = {
                group.name: self._elimination(task, source, group, kept)
                if target_shrank(task, group, self._visible(kept))
                else whole[group.name]
                for group in self._groups(task)
                if group.name in whole
            }
        return curves

    def _by_width(
        self, task: Task, source: Source, budget: Budget, widths: Mapping[str, int], known: Mapping[str, Elimination]
    ) -> PruningPlan:
        """Chooses the nodes of each group for given widths."""
        kept: dict[str, tuple[int, ...]] = {}
        information: dict[str, tuple[float, float]] = {}
        sensitivity: dict[str, tuple[float, ...]] = {}
        for group in self._groups(task):
            elimination = known.get(group.name)
            if elimination is None or target_shrank(task, group, self._visible(kept)):
                elimination = self._elimination(task, source, group, kept)
            kept[group.name] = elimination.kept(widths[group.name])
            information[group.name] = (elimination.loss[group.size - widths[group.name]], elimination.loss[-1])
            sensitivity[group.name] = elimination.sensitivity()
        return replace(self._record(task, kept, budget), information=information, sensitivity=sensitivity)

    def _by_test(self, task: Task, source: Source, budget: Budget) -> PruningPlan:
        kept: dict[str, tuple[int, ...]] = {}
        information: dict[str, tuple[float, float]] = {}

        def widen(group: NodeGroup, width: int) -> None:
            if width > len(kept[group.name]):
                kept[group.name], information[group.name] = self._widen(task, source, group, kept, width)

        for group in self._groups(task):
            least = group.least(budget.min_keep)
            tested = partial(self._test, task, source, group, dict(kept), least)
            found = _once(task, ["test", group.name, least], kept, tested)
            kept[group.name] = tuple(found["kept"])
            information[group.name] = (found["lost"], found["whole"])
            multiple = group.unit(budget.round_to)
            widen(group, min(math.ceil(len(found["kept"]) / multiple) * multiple, group.size))
        for kind in kinds(task.cost, uniform=budget.uniform):
            width = max(len(kept[name]) for name in kind)
            for name in kind:
                widen(task.graph.groups[name], width)
        return replace(self._record(task, kept, budget), information=information)

    def _widen(
        self, task: Task, source: Source, group: NodeGroup, kept: Kept, width: int
    ) -> tuple[tuple[int, ...], tuple[float, float]]:
        """More nodes of a group, the most informative by themselves first; and what those lost take, of the whole."""
        information = source(group, self._visible(kept))
        whole, own = information.total(), set(kept[group.name])
        order = information.marginal().argsort(descending=True, stable=True).tolist()
        ranked = [*own, *(node for node in order if node not in own)]
        for node in ranked[width:]:
            information.remove(node)
        lost = max(whole - information.total(), 0.0) if width < group.size else 0.0
        return tuple(sorted(ranked[:width])), (lost, whole)

    def _test(self, task: Task, source: Source, group: NodeGroup, kept: Kept, min_keep: int) -> dict[str, Any]:
        """Runs the test on one group."""
        assert self.confidence is not None
        information = source(group, self._visible(kept))
        whole = information.total()
        try:
            chosen = terc(
                information,
                self.confidence,
                self.order,
                margin=max(self.margin, self.share * whole),
                min_keep=min_keep,
                progress=_show(task, group),
            )
        except CalibrationError as error:
            raise CalibrationError(f"Group '{group.name}': {error}") from error
        return {"kept": list(chosen), "lost": max(whole - information.total(), 0.0), "whole": whole}

    def _elimination(self, task: Task, source: Source, group: NodeGroup, kept: Kept) -> Elimination:
        visible = part_in_target(task, group, self._visible(kept))

        def eliminate() -> dict[str, Any]:
            found = backward_elimination(source(group, visible), self.order, _show(task, group))
            order = self._asked(task, group, found)
            if order != found.order:
                found = elimination_along(source(group, visible), order)
            return {"order": found.order, "loss": found.loss}

        found = _once(task, ["elimination", group.name], visible, eliminate)
        return Elimination(tuple(found["order"]), tuple(found["loss"]))

    def _asked(self, task: Task, group: NodeGroup, found: Elimination) -> tuple[int, ...]:
        """The order of removals; that of few nodes as the outputs ask for it, where these are believed wholly."""
        wanted = self.worth == "outputs" or (self.worth == "auto" and asking(task.graph) == WHOLLY)
        if group.size not in FEW or self.order != "greedy" or not (wanted and self._needs_moments_only()):
            return found.order
        if not task.once("whether few nodes are asked for", lambda: may_ask(task)):
            return found.order
        statistics = measured(task, self.positions).statistics
        return task.once(f"order of {group.name}", lambda: order_by_outputs(task, statistics, group, found))

    def _visible(self, kept: Kept) -> Kept:
        """The nodes kept so far, where they limit the target."""
        return {} if self.direction == "forward" else kept

    def _price(self, task: Task, whole: Mapping[str, Elimination]) -> Price:
        """The function that makes losses of groups comparable, by what their nats are worth."""
        ask = asking(task.graph) if self.worth == "auto" else WHOLLY if self.worth == "outputs" else None
        if ask is None or not self._needs_moments_only():
            return _scarce
        try:
            worth = measure_worth(task, measured(task, self.positions).statistics, whole, ask)
        except UnsupportedModelError as error:
            if self.worth == "outputs":
                raise
            task.notes.append(f"The nats of all groups counted alike, since their worth could not be measured: {error}")
            return _scarce
        return lambda curves: _scarce(weigh(curves, worth, ask.believed))

    def _steps(self, task: Task, budget: Budget) -> int:
        falls = [task.cost.dense(name) / max(limit, 1e-9) for name, limit in budget.limits(task.cost).items()]
        return self.steps or task.effort.steps_for(max(falls, default=1.0), in_chain=is_chain(task.graph))

    def _record(self, task: Task, kept: Kept, budget: Budget) -> PruningPlan:
        """The plan, which names this method with the numbers that were settled for the network."""
        settled = replace(self, steps=self._steps(task, budget), noise=self._noise_for(task, budget))
        return task.plan(kept, settled, budget)

    def _needs_moments_only(self) -> bool:
        moments_suffice = getattr(make_estimator(self.estimator), "needs_moments_only", False)
        return moments_suffice and self.collapse is None and self.activation == "pre"

    def _noise_for(self, task: Task, budget: Budget) -> float:
        in_chain = self.noise is None and budget.has_target and is_chain(task.graph)
        return NOISE_IN_CHAINS if in_chain else self.usual_noise

    def _source(self, task: Task, noise: float, *, test: bool = False) -> Source:
        if self._needs_moments_only():
            return by_moments(task, self.positions, noise)
        reading = Reading(self.collapse, self.activation, self.positions)
        test = test and isinstance(make_estimator(self.estimator), Gaussian)  # the others read no noise
        return by_samples(task, reading, noise, self.estimate, test=test)


def _scarce(curves: Mapping[str, Elimination]) -> dict[str, Elimination]:
    return {name: with_scarcity(curve) for name, curve in curves.items()}


def _show(task: Task, group: NodeGroup) -> Progress:
    number, total = list(task.graph.groups).index(group.name) + 1, len(task.graph.groups)
    return lambda nodes: task.progress(nodes, f"selection: {group.name} ({number} of {total})", len(nodes))


def _once(task: Task, step: Sequence[str | int], kept: Kept, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result that an interrupted run recorded for this step with the same groups and kept nodes, else a new one."""
    given = json.dumps([step, list(task.graph.groups), {name: list(nodes) for name, nodes in kept.items()}])
    key = hashlib.sha256(given.encode()).hexdigest()
    return task.step(key, compute)
