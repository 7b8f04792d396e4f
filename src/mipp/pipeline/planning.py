"""Plans that are proven: what cannot be cut as it is masked is frozen, and the plan is made anew."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import lcm

from torch import Tensor, nn

from mipp.errors import InfeasibleBudgetError, MippError, amount, quote
from mipp.graph.axes import Reason
from mipp.graph.call import Call
from mipp.graph.nodes import companions
from mipp.methods.base import Method
from mipp.modules.copies import fill, full_copy, state_of
from mipp.pipeline.checks import check_groups, find_excluded
from mipp.pipeline.identity import identify
from mipp.pipeline.isolation import isolate
from mipp.pipeline.stages import Planned, Prepared, example
from mipp.plan.allocation import check_budget
from mipp.plan.budget import Budget
from mipp.plan.cost import Cost, cost_of
from mipp.plan.plan import PruningPlan
from mipp.plan.task import Task
from mipp.report.measuring import Clock
from mipp.runtime.distributed import gather
from mipp.runtime.record import Notes, Results
from mipp.storage.checkpoint import Checkpoint
from mipp.surgery.proof import wrong_groups
from mipp.surgery.trials import extend_frozen, names_of, verified_graph

_UNPROVEN = Reason("cutting it did not equal masking it")


def make_plan(prepared: Prepared, budget: Budget, store: Checkpoint | None) -> Planned:
    """Chooses the nodes to keep under a budget, or takes the plan of an interrupted run.

    Raises:
        MippError: The method cannot, or returned something else than a plan.
    """
    lap, options = Clock(prepared.seconds), prepared.options
    task = replace(prepared.task, notes=Notes(prepared.task.notes))
    task = replace(task, finished=store.finished) if store else task
    freeze = find_excluded(task.model, options.exclude)
    with isolate(options.seed):
        earlier = store.plan() if store else None
        if earlier is not None:
            made = _resume(task, freeze, *earlier)
        else:
            made = _prove(task, prepared.method, budget, freeze, store)
    lap("selection")
    return Planned(*made, store, lap.seconds)


def _resume(
    task: Task, freeze: Mapping[str, Reason], plan: PruningPlan, state: Mapping[str, Tensor] | None, notes: list[str]
) -> tuple[PruningPlan, nn.Module, Task]:
    """The plan of an interrupted run, with the dense model and the task that belong to it."""
    unknown = [name for name in task.graph.groups if name not in plan.groups]
    if unknown:  # frozen by the proof of the run that made the plan
        task = _with_graph(task, {**freeze, **names_of(task.graph, unknown, _UNPROVEN)})
    task.notes.extend(notes)
    return plan, _with_state(task.model, state), task


def _prove(
    task: Task, method: Method, budget: Budget, freeze: Mapping[str, Reason], store: Checkpoint | None
) -> tuple[PruningPlan, nn.Module, Task]:
    """Plans, and proves the plan: where the cut of a group differs from its mask, it plans anew.

    A group that can be cut to one node more (one map that is left is squeezed away) gets that width; others are frozen.

    Args:
        task: What to prune.
        method: Chooses the nodes.
        budget: What must hold.
        freeze: What is frozen already, as globs of module names.
        store: Where the plan is noted.
    """
    asked, call = budget, example(task.batches)
    while True:
        made = method.plan(task, asked)
        plan, state = made if isinstance(made, tuple) else (made, None)
        if not isinstance(plan, PruningPlan):
            raise MippError(
                f"{quote(method)} returned a {type(plan).__name__}; expected a plan: return task.plan(kept, ...)."
            )
        _check_agreed(plan, method)
        dense = _with_state(task.model, state)
        wrong = wrong_groups(plan, dense, call, task.notes)
        if not wrong:
            break
        wider = _wider(plan, wrong, dense, call, budget)
        if wider and (wide := _widen(asked, wider, task.cost)):
            asked = wide
            continue
        freeze = extend_frozen(freeze, names_of(task.graph, wrong, _UNPROVEN), wrong)
        task = _with_graph(task, freeze)
    plan = replace(plan, budget=budget.to_dict())
    task.notes.extend(_describe_excess(plan, method, budget, task.cost))
    if store:
        store.save_plan(plan, state, list(task.notes))
    return plan, dense, task


def _widen(budget: Budget, widths: Mapping[str, int], cost: Cost) -> Budget | None:
    """The budget with given widths of some groups; without a target, with so many nodes in each. None: none does."""
    wide = replace(budget, min_keep=max(widths.values()))
    if budget.has_target:
        wide = replace(budget, widths={**budget.widths, **widths})
    try:
        check_budget(wide, cost)
    except InfeasibleBudgetError:
        return None
    return wide


def _wider(plan: PruningPlan, wrong: Sequence[str], dense: nn.Module, call: Call, budget: Budget) -> dict[str, int]:
    """The next widths of groups that cannot be cut to those of the plan, where the cut then equals the mask.

    Raises:
        InfeasibleBudgetError: The caller gave such a width.
    """
    found: dict[str, int] = {}
    for name in wrong:
        size, number = plan.groups[name].size, len(plan.kept[name])
        unit = lcm(plan.groups[name].multiple, budget.round_to)
        width = number + unit - number % unit
        wider = {other: _with_more(plan, other, width) for other in companions(plan.groups, name)}
        if width < size and name not in wrong_groups(plan.with_kept(wider), dense, call):
            found |= dict.fromkeys(wider, width)
    given = sorted(found.keys() & budget.widths.keys())
    if given:
        raise InfeasibleBudgetError(
            f"widths asks for {budget.widths[given[0]]} nodes of group '{given[0]}'; cut to that width the network "
            "does not run, or does not compute what the masked one does. Expected another width: "
            f"{found[given[0]]} will do."
        )
    return found


def _with_more(plan: PruningPlan, name: str, width: int) -> list[int]:
    """The nodes that a plan keeps of a group, and the first of the others, up to a width."""
    kept = plan.kept[name]
    return [*kept, *(node for node in range(plan.groups[name].size) if node not in set(kept))][:width]


def _check_agreed(plan: PruningPlan, method: Method) -> None:
    """Refuses a plan that differs between the processes that prune together."""
    if any(kept != plan.kept for kept in gather(plan.kept)):
        raise MippError(
            f"The processes chose different nodes: {quote(method)} does not merge what it measures on sharded data. "
            "Choose "
            "a method that does, such as mipp.methods.MIPP(), or prune in one process without sharded=True."
        )


def _describe_excess(plan: PruningPlan, method: Method, budget: Budget, cost: Cost) -> list[str]:
    """Sentences on constraints that a method of the caller's does not meet; latency is measured elsewhere."""
    widths = cost.widths(plan.widths)
    limits = budget.without(budget.estimated).limits(cost)
    needed = {name: (cost.value(name, widths), limit) for name, limit in limits.items()}
    return [
        f"{quote(method)} returned a plan of {amount(value)} {name}, more than the {amount(limit)} of the budget."
        for name, (value, limit) in needed.items()
        if value > limit * (1 + 1e-9)
    ]


def _with_graph(task: Task, freeze: Mapping[str, Reason]) -> Task:
    graph = verified_graph(task.model, example(task.batches), freeze)
    check_groups(task.model, graph)
    return replace(task, graph=graph, cost=cost_of(graph, task.cost.times), measured=Results())


def _with_state(model: nn.Module, state: Mapping[str, Tensor] | None) -> nn.Module:
    if state is None:
        return model
    other, found = full_copy(model), {name: value for name, value in state.items() if isinstance(value, Tensor)}
    own = state_of(other)
    odd = [name for name in sorted(own.keys() | found.keys()) if _shape(own, name) != _shape(found, name)]
    if odd:
        raise MippError(
            f"The method's weights are not those of {type(model).__name__}: '{odd[0]}' has shape "
            f"{_shape(found, odd[0])}, expected {_shape(own, odd[0])} (None: not there). Return a state dict that "
            "holds every tensor of the dense model, at its size."
        )
    fill(other, found)
    return other


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def open_checkpoint(prepared: Prepared, budget: Budget) -> AbstractContextManager[Checkpoint | None]:
    """The checkpoint of a run, under everything the result depends on; None where no folder is given."""
    if prepared.options.checkpoint is None:
        return nullcontext()
    return Checkpoint(prepared.options.checkpoint, identify(prepared, budget))
