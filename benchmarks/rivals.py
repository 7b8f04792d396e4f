"""Other libraries as methods: what they keep becomes a plan, so that it can be measured and refitted as any other."""

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mipp.errors import MippError
from mipp.graph.nodes import NodeGroup
from mipp.methods import Method, Needs, Task
from mipp.plan.budget import Budget
from mipp.plan.plan import PruningPlan

_STEPS = 50
_SMALL = 20  # images: FastNAS measures batch norms on its last fifty batches, and not at all where there are fewer


@dataclass(frozen=True)
class TorchPruning:
    """Torch-Pruning: one global ranking, in steps down to a budget of MACs or parameters.

    Linear layers stay as they are, which in convolutional networks are the classifier.

    Attributes:
        score: 'l1', 'taylor' or 'hessian'.
        exclude: Modules whose nodes stay.
    """

    score: str
    exclude: tuple[str, ...] = ()
    library: ClassVar[str] = "torch_pruning"
    needs: ClassVar[Needs] = Needs(labels=True, gradients=True, stage="trained")

    def plan(self, task: Task, budget: Budget) -> PruningPlan:
        """Returns what the library keeps."""
        return task.plan(_kept(task, self.smaller(task, budget)), self, budget)

    def smaller(self, task: Task, budget: Budget) -> nn.Module:
        """The network as the library leaves it.

        Raises:
            MippError: The budget is out of its reach.
        """
        import torch_pruning as tp

        model = copy.deepcopy(task.model)
        scores = {
            "l1": lambda: tp.importance.MagnitudeImportance(p=1),
            "taylor": tp.importance.TaylorImportance,
            "hessian": tp.importance.HessianImportance,
        }
        importance = scores[self.score]()
        images, labels = _labelled(task)[0]
        whole = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) or name in self.exclude]
        pruner = tp.BasePruner(
            model, images[:2], importance, global_pruning=True, pruning_ratio=0.95, iterative_steps=_STEPS,
            ignored_layers=whole,
        )  # fmt: skip

        def sizes() -> tuple[float, float]:
            macs, params = tp.utils.count_ops_and_params(model, images[:1])
            return macs, params

        before = sizes()
        for _ in range(_STEPS + 1):
            if all(
                limit is None or now <= limit * full
                for limit, now, full in zip((budget.macs, budget.params), sizes(), before, strict=True)
            ):
                return model
            if self.score == "taylor":
                model.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
            elif self.score == "hessian":
                _accumulate(importance, model, images[:16], labels[:16])
            pruner.step()
        raise MippError(f"Torch-Pruning did not come down to {budget} in {_STEPS} steps.")


@dataclass(frozen=True)
class FastNAS:
    """NVIDIA Model Optimizer's FastNAS: widths by search, scored by accuracy on the calibration images.

    Attributes:
        recalibrated: Batch norms take the statistics that it measured anew: the network as the library leaves it,
            which is not refitted. False: its nodes only.
    """

    recalibrated: bool = True
    library: ClassVar[str] = "modelopt"

    @property
    def needs(self) -> Needs:
        """Labels; what has statistics of its own is not refitted."""
        return Needs(labels=True, stage="trained", reweights=self.recalibrated)

    def plan(self, task: Task, budget: Budget) -> PruningPlan | tuple[PruningPlan, dict[str, Tensor]]:
        """Returns what the library keeps.

        Raises:
            MippError: The budget says nothing of MACs.
        """
        if budget.macs is None:
            raise MippError(f"FastNAS was given {budget}; it takes a fraction of the MACs.")
        small = _searched(copy.deepcopy(task.model), _labelled(task), budget.macs)
        kept = _kept(task, small)
        plan = task.plan(kept, self, budget)
        return (plan, _statistics(task, small, kept)) if self.recalibrated else plan


def rivals(exclude: tuple[str, ...]) -> Mapping[str, Method]:
    """The methods of other libraries by name, installed or not."""
    return {
        **{f"torch-pruning {score}": TorchPruning(score, exclude) for score in ("l1", "taylor", "hessian")},
        "fastnas": FastNAS(),
        "fastnas, its nodes": FastNAS(recalibrated=False),
    }


def installed(method: Method) -> bool:
    """True if the library that a method belongs to is there, if it is one of another library."""
    library = getattr(method, "library", None)
    return library is None or find_spec(library) is not None


def _labelled(task: Task) -> list[tuple[Tensor, Tensor]]:
    return [(batch.call.args[0], batch.labels) for batch in task.batches]


def _accumulate(importance: Any, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Squared gradients of single samples, as its Hessian importance takes them."""
    importance.zero_grad()
    for loss in nn.functional.cross_entropy(model(images), labels, reduction="none"):
        model.zero_grad()
        loss.backward(retain_graph=True)
        importance.accumulate_grad(model)


def _searched(model: nn.Module, data: list[tuple[Tensor, Tensor]], macs: float) -> nn.Module:
    """The smaller network that FastNAS finds, with that fraction of the MACs.

    It counts MACs with torchprofile, which needs torchvision; torch's own counter stands in for it.
    """
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.fastnas import FastNASConfig

    package, counter = ModuleType("torchprofile"), ModuleType("torchprofile.profile")
    vars(counter).update(profile_macs=_counted, handlers=())
    vars(package).update(profile=counter)
    sys.modules |= {"torchprofile": package, "torchprofile.profile": counter}
    space = FastNASConfig().model_dump()
    for layer in space.values():  # its widths are multiples of 32, which leaves a network of 16 to 64 no choice
        layer["*"] |= {name: 4 for name in layer["*"] if name.endswith("_divisor")}
    small = [part for x, y in data for part in zip(x.split(_SMALL), y.split(_SMALL), strict=True)]
    with TemporaryDirectory() as folder:
        found, _ = mtp.prune(
            model,
            mode=[("fastnas", space)],
            constraints={"flops": f"{100 * macs:.6g}%"},
            dummy_input=data[0][0][:1],
            config={
                "data_loader": small,
                "score_func": _scored(data),
                "checkpoint": str(Path(folder) / "fastnas.pth"),
            },
        )
    return found  # type: ignore[no-any-return]


def _scored(data: list[tuple[Tensor, Tensor]]) -> Callable[[nn.Module], float]:
    @torch.inference_mode()
    def score(model: nn.Module) -> float:
        model.eval()
        return sum(float((model(x).argmax(1) == y).sum()) for x, y in data) / sum(len(y) for _, y in data)

    return score


def _counted(model: nn.Module, args: Any, **_: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        model(*args if isinstance(args, tuple) else (args,))
    return counter.get_total_flops() // 2


def _kept(task: Task, small: nn.Module) -> dict[str, list[int]]:
    """The nodes that a smaller copy kept, in its order, read off its biases and batch norms."""
    dense, found = (dict(model.named_parameters()) for model in (task.model, small))
    return {name: _recognised(dense, found, group) for name, group in task.graph.groups.items()}


def _recognised(dense: Mapping[str, Tensor], small: Mapping[str, Tensor], group: NodeGroup) -> list[int]:
    """Nodes whose values in all vectors of the group are found in the smaller network."""
    names = _vectors(group, dense)
    here, there = (torch.stack([tensors[name].detach() for name in names], 1) for tensors in (dense, small))
    same = (there[:, None] == here[None]).all(2)
    assert bool((same.sum(1) == 1).all()), f"{group.name}: {int(same.any(1).sum())} of {len(there)} are recognised"
    return same.int().argmax(1).tolist()


def _statistics(task: Task, small: nn.Module, kept: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The dense network's state, with the statistics that the smaller one has of the nodes it kept."""
    state = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    buffers = dict(task.model.named_buffers())
    inner = {v: kept[name] for name, group in task.graph.groups.items() for v in _vectors(group, buffers)}
    for name, values in small.named_buffers():
        state[name][inner.get(name, ...)] = values
    return state


def _vectors(group: NodeGroup, tensors: Mapping[str, Tensor]) -> list[str]:
    """Those of the tensors with one value for each node, in the order of the nodes."""
    own = [s for s in group.slices if s.tensor in tensors and tensors[s.tensor].shape == (group.size,)]
    return list(dict.fromkeys(s.tensor for s in own if np.array_equal(s.positions[:, 0], range(group.size))))
