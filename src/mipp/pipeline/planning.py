"""Plans that are proven: what cannot be cut as it is masked is frozen, and the plan is made anew."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from mipp.data.calibration import Batch
from mipp.errors import InfeasibleBudgetError, MippError
from mipp.graph.axes import Reason
from mipp.graph.program import Call
from mipp.methods import Method, Task
from mipp.modules.copies import full_copy
from mipp.pipeline.checks import check_groups
from mipp.plan import Budget, PruningPlan, check_budget
from mipp.plan.cost import Cost, cost_of
from mipp.runtime.distributed import gather
from mipp.storage.checkpoint import Checkpoint
from mipp.surgery import extend_frozen, names_of, verified_graph, wrong_groups

_UNPROVEN = Reason("cutting it did not equal masking it")


def proven_plan(
    task: Task, method: Method, budget: Budget, freeze: Mapping[str, Reason], store: Checkpoint | None
) -> tuple[Task, PruningPlan, nn.Module]:
    """Plans, and proves the plan: where the cut of a group differs from its mask, it plans anew.

    A group that can be cut to one node more (one map that is left is squeezed away) gets that width; others are frozen.

    Args:
        task: What to prune.
        method: Chooses the nodes.
        budget: What must hold.
        freeze: What is frozen already, as globs of module names.
        store: Where the plan of an interrupted run may be, and this one is noted.

    Returns:
        The task with what was frozen besides, the plan, and the dense model with the weights that the method left.
    """
    earlier = store.plan() if store else None
    if earlier is not None:
        plan, state, notes = earlier
        unknown = [name for name in task.graph.groups if name not in plan.groups]
        if unknown:  # frozen by the proof of the run that made the plan
            task = _with_graph(task, {**freeze, **names_of(task.graph, unknown, _UNPROVEN)})
        task.notes.extend(notes)
        return task, plan, _with_state(task.model, state)
    asked, call = budget, example(task.batches)
    while True:
        made = method.plan(task, asked)
        plan, state = made if isinstance(made, tuple) else (made, None)
        if not isinstance(plan, PruningPlan):
            raise MippError(
                f"{method!r} returned a {type(plan).__name__}; expected a plan: return task.plan(kept, ...)."
            )
        _check_agreed(plan, method)
        dense = _with_state(task.model, state)
        wrong = wrong_groups(plan, dense, call)
        if not wrong:
            break
        wider = _wider(plan, wrong, dense, call, budget)
        floor = {"widths": {**asked.widths, **wider}} if budget else {"min_keep": max(wider.values(), default=0)}
        if wider and _can_be_met(replace(asked, **floor), task.cost):
            asked = replace(asked, **floor)
            continue
        freeze = extend_frozen(freeze, names_of(task.graph, wrong, _UNPROVEN), wrong)
        task = _with_graph(task, freeze)
    plan = replace(plan, budget=budget.to_dict())
    task.notes.extend(_describe_excess(plan, method, budget, task.cost))
    if store:
        store.save_plan(plan, state, task.notes)
    return task, plan, dense


def _can_be_met(budget: Budget, cost: Cost) -> bool:
    try:
        check_budget(budget, cost)
    except InfeasibleBudgetError:
        return False
    return True


def _wider(plan: PruningPlan, wrong: Sequence[str], dense: nn.Module, call: Call, budget: Budget) -> dict[str, int]:
    """The next widths of groups that cannot be cut to those of the plan, where the cut then equals the mask.

    Raises:
        InfeasibleBudgetError: The caller gave such a width.
    """
    found = {}
    for name in wrong:
        kept, size = plan.kept[name], plan.groups[name].size
        width = len(kept) + budget.round_to - len(kept) % budget.round_to
        more = [node for node in range(size) if node not in set(kept)][: width - len(kept)]
        if width < size and name not in wrong_groups(plan.with_kept({name: [*kept, *more]}), dense, call):
            found[name] = width
    given = sorted(found.keys() & budget.widths.keys())
    if given:
        raise InfeasibleBudgetError(
            f"widths asks for {budget.widths[given[0]]} nodes of group '{given[0]}'; cut to that width the network "
            "does not run, or does not compute what the masked one does. Expected another width: "
            f"{found[given[0]]} will do."
        )
    return found


def example(batches: Sequence[Batch]) -> Call:
    """The first two samples, where the batch can be cut."""
    first = batches[0]
    return first.call.part(0, 2) if first.divisible else first.call


def _check_agreed(plan: PruningPlan, method: Method) -> None:
    """Refuses a plan that differs between the processes that prune together."""
    if any(kept != plan.kept for kept in gather(plan.kept)):
        raise MippError(
            f"The processes chose different nodes: {method!r} does not merge what it measures on sharded data. Choose "
            "a method that does, such as mipp.methods.MIPP(), or prune in one process without sharded=True."
        )


def _describe_excess(plan: PruningPlan, method: Method, budget: Budget, cost: Cost) -> list[str]:
    """Sentences on constraints that a method of the caller's does not meet; latency is measured elsewhere."""
    widths = cost.widths(plan.widths)
    needed = {name: (cost.value(name, widths), limit) for name, limit in budget.limits(cost).items()}
    return [
        f"{method!r} returned a plan of {value:,.6g} {name}, more than the {limit:,.6g} of the budget."
        for name, (value, limit) in needed.items()
        if name != "latency_ms" and value > limit * (1 + 1e-9)
    ]


def _with_graph(task: Task, freeze: Mapping[str, Reason]) -> Task:
    graph = verified_graph(task.model, example(task.batches), freeze)
    check_groups(task.model, graph)
    return replace(task, graph=graph, cost=cost_of(graph, task.cost.times), measured={})


def _with_state(model: nn.Module, state: Mapping[str, Tensor] | None) -> nn.Module:
    if state is None:
        return model
    other = full_copy(model)
    own = nn.Module.state_dict(other)  # whatever an overridden one leaves out
    extra = {name: value for name, value in own.items() if not isinstance(value, Tensor)}
    try:
        nn.Module.load_state_dict(other, {**extra, **state})  # a checkpoint holds tensors only; other things stay
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise MippError(
            f"The method's weights are not those of {type(model).__name__}: {reason} Return a state dict that holds "
            "every tensor of the dense model, at its size."
        ) from error
    return other
