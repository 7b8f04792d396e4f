"""The paper's estimator: perceptrons that are fitted again for every node that is masked.

Sources: Westphal, Hailes & Musolesi, arXiv 2411.00147, sections 4.2.2 and 4.3; the loss as information: Covert,
Lundberg & Lee, NeurIPS 2020.
"""

from dataclasses import dataclass
from typing import Any, Literal

import scipy
import torch
from torch import Tensor

from mipp.estimators.base import Samples, register
from mipp.estimators.perceptrons import Perceptrons, check_hidden, surprise
from mipp.estimators.prepared import prepare, split_by_image
from mipp.runtime.settings import check_settings

BATCH = 256
_EPOCH = 20
_PATIENCE = 10
_MEMBERS = 96  # perceptrons of single nodes that are fitted side by side


@register("mlp")
@dataclass(frozen=True)
class MLP:
    """Perceptrons predict the target from the nodes; what a node says is what the loss rises by without it.

    Attributes:
        num_estimators: Perceptrons, each with weights, batches and held-out samples of its own; their differences
            decide how sure a loss is.
        hidden: Hidden units of each layer.
        initial_iterations: Steps of the first fit on all nodes.
        ordering_iterations: Steps of the fits on single nodes, for the order.
        retrain_iterations: Steps at most after a node is masked; fewer once the loss is back, or stopped falling.
        critical: Distribution behind the confidence: Student's "t", or normal, "z".
        loss_split: Judge by "heldout" samples (a fifth of the images), or by those trained on, "train".
        reference: Compare with all nodes, "fixed", or with those left, "running"; either way with perceptrons that were
            trained for as many steps.
    """

    num_estimators: int = 3
    hidden: tuple[int, ...] = (256, 256)
    initial_iterations: int = 1500
    ordering_iterations: int = 35
    retrain_iterations: int = 150
    critical: Literal["t", "z"] = "t"
    loss_split: Literal["heldout", "train"] = "heldout"
    reference: Literal["fixed", "running"] = "fixed"

    def __post_init__(self) -> None:
        check_settings(
            self,
            num_estimators="[2, inf)",
            initial_iterations="[1, inf)",
            ordering_iterations="[1, inf)",
            retrain_iterations="[1, inf)",
        )
        check_hidden(self, self.hidden)

    def __call__(self, samples: Samples, generator: torch.Generator) -> "MLPInformation":
        return MLPInformation(samples, self, generator)


@dataclass(frozen=True)
class _Removal:
    """Perceptrons fitted again without one node."""

    node: int
    state: dict[str, Any]
    losses: Tensor


class MLPInformation:
    """I(X_S; Y) as the drop of held-out surprise, in nats at unit noise on standardised targets."""

    @torch.no_grad()
    def __init__(self, samples: Samples, settings: MLP, generator: torch.Generator) -> None:
        self.settings = settings
        self.num_nodes = len(samples.blocks)
        self._data, self._blocks = prepare(samples), samples.blocks.to(samples.x.device)
        splits = [split_by_image(samples.images, generator) for _ in range(settings.num_estimators)]
        if settings.loss_split == "train":
            splits = [(torch.arange(len(samples.x)),) * 2] * settings.num_estimators
        self._fit, held = (_stack(side) for side in zip(*splits, strict=True))
        self._held = held.to(samples.x.device)
        self._seed = int(torch.randint(2**62, (1,), generator=generator))
        self._mask = torch.ones(samples.x.shape[1], device=samples.x.device)
        self._alive = torch.ones(self.num_nodes, dtype=torch.bool)
        self._removed = 0
        sizes = (samples.x.shape[1], *settings.hidden, self._data.outputs)
        self._net = Perceptrons(settings.num_estimators, sizes, generator, samples.x.device)
        self._steps(self._mask, settings.initial_iterations, torch.Generator().manual_seed(self._seed))
        self._losses = self._evaluate(self._mask)
        self._twin = self._net.state()
        self._goal: Tensor | None = None
        self._trial: _Removal | None = None

    @torch.no_grad()
    def marginal(self) -> Tensor:
        """The information of each node by itself in nats, after a short fit."""
        count = max(1, _MEMBERS // self.settings.num_estimators)
        parts = torch.arange(self.num_nodes).split(count)
        return torch.cat([self._alone(nodes) for nodes in parts]).double()

    @torch.no_grad()
    def losses(self) -> Tensor:
        """Upper bounds: what masking a node costs before the others make up for it."""
        out = torch.full((self.num_nodes,), torch.inf, dtype=torch.float64)
        for node in torch.nonzero(self._alive).flatten().tolist():
            out[node] = float((self._evaluate(self._without(node)) - self._losses).mean())
        return out

    @torch.no_grad()
    def loss(self, node: int) -> float:
        return float((self._try(node).losses - self._reference()).mean())

    @torch.no_grad()
    def remove(self, node: int) -> None:
        """Goes on from the perceptrons that were fitted without the node."""
        trial = self._try(node)
        self._net.restore(trial.state)
        self._mask, self._losses = self._without(node), trial.losses
        self._alive[node] = False
        self._removed += 1
        self._goal, self._trial = None, None

    @torch.no_grad()
    def confidence(self, node: int, margin: float = 0.0) -> float:
        """One-sided level at which the perceptrons agree that the loss exceeds the margin."""
        difference = (self._try(node).losses - self._reference()).double().cpu() - margin
        mean, error = float(difference.mean()), float(difference.std() / len(difference) ** 0.5)
        if error == 0:
            return float(mean > 0)
        score = mean / error
        if self.settings.critical == "z":
            return float(scipy.stats.norm.cdf(score))
        return float(scipy.stats.t.cdf(score, len(difference) - 1))

    @torch.no_grad()
    def total(self) -> float:
        return float((self._data.nothing[self._held].mean(1) - self._losses).mean())

    def _without(self, node: int) -> Tensor:
        mask = self._mask.clone()
        mask[self._blocks[node]] = 0
        return mask

    def _try(self, node: int) -> _Removal:
        """The fit without a node; the perceptrons themselves stay as they are."""
        if self._trial is None or self._trial.node != node:
            goal = self._reference()
            before = self._net.state()
            losses = self._refit(self._without(node), goal)
            self._trial = _Removal(node, self._net.state(), losses)
            self._net.restore(before)
        return self._trial

    def _reference(self) -> Tensor:
        """Losses to compare with: of perceptrons trained as long, on all nodes or on those left."""
        if self._goal is None:
            now = self._net.state()
            fixed = self.settings.reference == "fixed"
            if fixed:
                self._net.restore(self._twin)
            mask = torch.ones_like(self._mask) if fixed else self._mask
            self._goal = self._refit(mask)
            if fixed:
                self._twin = self._net.state()
            self._net.restore(now)
        return self._goal

    def _refit(self, mask: Tensor, goal: Tensor | None = None) -> Tensor:
        """Trains on until the losses are at the goal or stop falling; what is compared sees the same batches."""
        generator = torch.Generator().manual_seed(self._seed + self._removed)
        best, waited, left = torch.full_like(self._losses, torch.inf), 0, self.settings.retrain_iterations
        while left > 0 and waited < _PATIENCE:
            self._steps(mask, min(_EPOCH, left), generator)
            left -= _EPOCH
            losses = self._evaluate(mask)
            if goal is not None and bool((losses <= goal).all()):
                break
            waited = 0 if bool((losses < best).any()) else waited + 1
            best = torch.minimum(best, losses)
        return losses

    def _steps(self, mask: Tensor, number: int, generator: torch.Generator) -> None:
        for _ in range(number):
            rows = _batch(self._fit, generator).to(mask.device)
            self._net.step(self._data.x[rows] * mask, self._data.y[rows])

    def _evaluate(self, mask: Tensor) -> Tensor:
        """Mean surprise of every perceptron at its own rows, shape [estimators]."""
        totals = [
            surprise(self._net(self._data.x[rows] * mask), self._data.y[rows]).sum(1)
            for rows in self._held.split(4096, dim=1)
        ]
        return torch.stack(totals).sum(0) / self._held.shape[1]

    def _alone(self, nodes: Tensor) -> Tensor:
        """I(X_i; Y) of some nodes, each from perceptrons that read nothing else."""
        repeats, width = self.settings.num_estimators, self._blocks.shape[1]
        generator = torch.Generator().manual_seed(self._seed + int(nodes[0]))
        sizes = (width, *self.settings.hidden, self._data.outputs)
        net = Perceptrons(len(nodes) * repeats, sizes, generator, self._mask.device)
        features = self._blocks[nodes.to(self._blocks.device)]
        for _ in range(self.settings.ordering_iterations):
            net.step(*self._of_nodes(_batch(self._fit, generator), features))
        totals = [
            surprise(net(x), y).sum(1)
            for x, y in (self._of_nodes(rows, features) for rows in self._held.split(1024, dim=1))
        ]
        losses = torch.stack(totals).sum(0).reshape(len(nodes), repeats) / self._held.shape[1]
        return (self._data.nothing[self._held].mean(1) - losses).mean(1).cpu()

    def _of_nodes(self, rows: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Batches of single nodes: rows [estimators, n] become [nodes x estimators, n, width], and their targets."""
        rows = rows.to(self._mask.device)
        x = self._data.x[rows][:, :, features].permute(2, 0, 1, 3)
        y = self._data.y[rows]
        return x.flatten(0, 1), y.expand(len(features), *y.shape).flatten(0, 1)


def _batch(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Rows drawn for every estimator, shape [estimators, batch]."""
    size = min(BATCH, rows.shape[1])
    return rows.gather(1, torch.randint(rows.shape[1], (len(rows), size), generator=generator))


def _stack(rows: tuple[Tensor, ...]) -> Tensor:
    """Row numbers of all estimators, cut to the shortest; images may have different numbers of rows."""
    shortest = min(len(r) for r in rows)
    return torch.stack([r[:shortest] for r in rows]).cpu()
