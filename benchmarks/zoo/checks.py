"""Checks of a pattern: the manifest, and every step from the plan to the exported network."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from benchmarks.zoo.registry import Pattern
from mipp.data.calibration import as_call
from mipp.errors import UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.nodes import NodeGroup, PruningGraph
from mipp.graph.trees import tensors_in
from mipp.plan.plan import PruningPlan
from mipp.surgery.proof import distance, outputs

TOLERANCES = ((torch.float64, 1e-10), (None, 1e-4))  # the second for kernels that know no float64
EXPORT_TOLERANCE = 1e-4
Row = dict[str, Any]


def check(pattern: Pattern) -> Row:
    """All facts about one pattern, as JSON-able data."""
    model, call = pattern.model(), as_call(pattern.batch())
    graph = mipp.inspect(model, pattern.batch()).graph
    plan = random_plan(graph, model)
    return {
        **against_manifest(pattern, graph),
        "unaccounted": unaccounted(graph, model),
        "frozen": [[f.name, f.nodes, f.reason] for f in graph.frozen],
        "checks": {
            "cut == masked": outcome(lambda: cut_equals_masked(plan, model, call)),
            "MIPP": outcome(lambda: pruned_by_mipp(pattern)),
            "train": outcome(lambda: trains(mipp.apply(plan, model), call)),
            "export": outcome(lambda: exports(torch_export, plan, model, call)),
            "ONNX": outcome(lambda: exports(onnx_export, plan, model, call)),
        },
    }


def against_manifest(pattern: Pattern, graph: PruningGraph) -> Row:
    """The number of groups of the manifest that can be pruned; a group counts when at least its nodes are there."""
    found = {name: nodes_of(name, graph.groups.values()) for name in pattern.groups}
    missing = [
        {"group": name, "nodes": nodes, "found": found[name], "reason": _why(name, graph)}
        for name, nodes in pattern.groups.items()
        if found[name] < nodes
    ]
    listed = {g.name for g in graph.groups.values() if any(_produces(g, name) for name in pattern.groups)}
    return {
        "groups": len(pattern.groups),
        "pruned": len(pattern.groups) - len(missing),
        "nodes": sum(pattern.groups.values()),
        "nodes found": graph.num_nodes,
        "missing": missing,
        "finer": {name: found[name] for name, nodes in pattern.groups.items() if found[name] > nodes},
        "not in the manifest": {g.name: g.size for g in graph.groups.values() if g.name not in listed},
    }


def nodes_of(name: str, groups: Iterable[NodeGroup]) -> int:
    """Number of nodes that a module or parameter produces."""
    return sum(group.size for group in groups if _produces(group, name))


def _produces(group: NodeGroup, name: str) -> bool:
    """True if nodes of a group are outputs of a layer; a tied embedding is read, too, but gives its name."""
    if group.name.partition("#")[0] == name:
        return True
    made = [s.tensor for s in group.slices if not s.reads]
    parametrized = f"{name}.parametrizations.weight.original"
    return any(t == name or t.rpartition(".")[0] == name or t.startswith(parametrized) for t in made)


def _why(name: str, graph: PruningGraph) -> str:
    reasons = [f.reason for f in graph.frozen if f.name == name or f.name.startswith(f"{name}.parametrizations")]
    return "; ".join(dict.fromkeys(reasons))


def unaccounted(graph: PruningGraph, model: nn.Module) -> list[str]:
    """Layers some of whose outputs are neither in a group nor frozen with a reason; of one output, those in no list."""
    listed = {f.name for f in graph.frozen}.union(*({*g.producers, *g.consumers} for g in graph.groups.values()))
    first = {id(p): name for name, p in reversed([*model.named_parameters(remove_duplicate=False)])}
    return [
        name
        for name, module in model.named_modules()
        if (weight := _weight(module)) is not None
        and all(
            weight.shape[axis] > _accounted(graph, first[id(weight)], axis)
            and (weight.shape[axis] > 1 or first[id(weight)].rpartition(".")[0] not in listed)
            for axis in _node_axes(module)
        )
    ]


def _weight(module: nn.Module) -> Tensor | None:
    standard = nn.Linear, nn.modules.conv._ConvNd, nn.Embedding
    return module._parameters.get("weight") if isinstance(module, standard) else None


def _node_axes(module: nn.Module) -> tuple[int, ...]:
    """Axes of the weight along which outputs are cut: with groups and transposed, by the group or each in its group."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return (1,) if module.groups == 1 else (0, 1)
    return (int(isinstance(module, nn.Embedding)),)


def _accounted(graph: PruningGraph, tensor: str, axis: int) -> int:
    owner = tensor.rpartition(".")[0]
    frozen = sum(f.nodes for f in graph.frozen if f.name == owner and f.reason)
    return frozen + sum(
        s.positions.size for g in graph.groups.values() for s in g.slices if (s.tensor, s.axis) == (tensor, axis)
    )


def random_plan(graph: PruningGraph, model: nn.Module, seed: int = 0) -> PruningPlan:
    """A plan by which every group loses about half of its nodes, and keeps one at least."""
    generator = torch.Generator().manual_seed(seed)
    kept = {
        name: torch.randperm(group.size, generator=generator)[: _half(group)].tolist()
        for name, group in graph.groups.items()
    }
    return PruningPlan.of(graph, model, kept)


def _half(group: NodeGroup) -> int:
    return max(group.size // 2 // group.multiple, 1) * group.multiple


def outcome(function: Callable[[], str | None]) -> str:
    """ "passed", what the check has to say, or the first line of what went wrong."""
    try:
        return function() or "passed"
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"failed: {type(error).__name__}: {lines[0][:200]}"


def cut_equals_masked(plan: PruningPlan, model: nn.Module, call: Call) -> str | None:
    """Proves that the smaller network computes what the masked one computes."""
    return computes_the_same(mipp.apply(plan, model), mipp.mask(plan, model), call)


def computes_the_same(cut: nn.Module, masked: nn.Module, call: Call) -> str | None:
    """Compares in float64, and in the type of the network where its kernels know no other."""
    for dtype, tolerance in TOLERANCES:
        try:
            expected = outputs(masked, call, dtype)
        except UnsupportedModelError:
            if dtype is None:
                raise
            continue
        difference = distance(outputs(cut, call, dtype), expected)
        if difference > tolerance:
            raise ValueError(f"cut and masked differ by {difference:.1e}")
        return None if dtype is not None else "passed in float32"
    return None


def loads(result: mipp.Result, dense: nn.Module, call: Call) -> None:
    """Saves the result, loads it into a dense network, and compares bit by bit."""
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "small")
        loaded = mipp.load(Path(folder) / "small", dense)
    same = zip(outputs(loaded, call, None), outputs(result.model, call, None), strict=True)
    if not all(torch.equal(a, b) for a, b in same):
        raise ValueError("the loaded network gives other outputs than the saved one")


def pruned_by_mipp(pattern: Pattern) -> None:
    """Prunes by MIPP with its refit, proves the plan, saves, loads, and compares the outputs bit by bit."""
    model, call = pattern.model(), as_call(pattern.batch())
    batches = [(pattern.batch(8, 100 + i), None) for i in range(3)]
    result = mipp.prune(model, batches, mipp.Budget(nodes=0.6), progress=False)
    cut_equals_masked(result.plan, model, call)
    loads(result, pattern.model(), call)


def trains(small: nn.Module, call: Call) -> None:
    """Takes one step of SGD and expects finite gradients and changed weights."""
    small.train()
    optimiser = torch.optim.SGD(small.parameters(), lr=0.1)
    before = [p.detach().clone() for p in small.parameters()]
    floating = [t for t in tensors_in(call(small)) if t.is_floating_point()]
    torch.stack([t.float().square().mean() for t in floating]).sum().backward()
    gradients = [p.grad for p in small.parameters() if p.grad is not None]
    if not gradients or not all(bool(g.isfinite().all()) for g in gradients):
        raise ValueError("no gradients, or gradients that are not finite")
    optimiser.step()
    if all(torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True)):
        raise ValueError("the step changed no weight")


Export = Callable[[nn.Module, Call], list[Tensor]]


def exports(export: Export, plan: PruningPlan, model: nn.Module, call: Call) -> str | None:
    """Exports the smaller network and compares; a network that cannot be exported in full size is no failure."""
    small = mipp.apply(plan, model)
    expected = outputs(small, call, None)
    with quiet(), torch.no_grad():
        try:
            found = export(small, call)
        except Exception as error:
            try:
                export(model, call)
            except Exception as same:
                return f"neither can the dense network: {type(same).__name__}"
            raise error
    if (
        len(found) != len(expected)
        or distance([a.to(b) for a, b in zip(found, expected, strict=True)], expected) > EXPORT_TOLERANCE
    ):
        raise ValueError("the exported network gives other outputs")
    return None


def torch_export(model: nn.Module, call: Call) -> list[Tensor]:
    """Outputs of the network after `torch.export`."""
    program = torch.export.export(copy.deepcopy(model), call.args, dict(call.kwargs))
    return tensors_in(program.module()(*call.args, **call.kwargs))


def onnx_export(model: nn.Module, call: Call) -> list[Tensor]:
    """Outputs of the network after the ONNX export, computed by onnxruntime."""
    program = torch.onnx.export(copy.deepcopy(model), call.args, kwargs=dict(call.kwargs), dynamo=True, verbose=False)
    assert program is not None
    return [torch.as_tensor(t) for t in program(*call.args, **call.kwargs)]


def warm_up() -> None:
    """Loads the exporters once, so that processes forked from this one have them already."""
    with quiet():
        onnx_export(nn.Linear(2, 2), Call((torch.ones(1, 2),)))


@contextmanager
def quiet() -> Any:
    """Silences the exporters, which warn about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def passed(row: Mapping[str, Any]) -> bool:
    """True if a pattern passes: nothing hangs, is cut wrongly, or is left out without a reason."""
    if "error" in row or row["unaccounted"] or any(not m["reason"] for m in row["missing"]):
        return False
    return not any(text.startswith("failed") for text in row["checks"].values())
