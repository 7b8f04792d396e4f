"""One perceptron per layer, trained under random masks: any set of nodes is then judged by a forward pass.

Source of the idea: Gadgil, Covert & Lee, Estimating Conditional Mutual Information for Dynamic Feature Selection, ICLR
2024 (the masked predictor; Covert, Lundberg & Lee, NeurIPS 2020).
"""

from dataclasses import dataclass
from math import cos, pi

import scipy
import torch
from torch import Tensor

from mipp.estimators.base import Samples, register
from mipp.estimators.perceptrons import Perceptrons, check_hidden, surprise
from mipp.estimators.prepared import prepare, split_by_image
from mipp.runtime.settings import check_settings

_BATCH = 256
_LEARNING_RATE = 3e-3  # falls to zero as half a cosine
_ROWS = 8192  # rows of a forward pass over candidates


@register("surrogate")
@dataclass(frozen=True)
class Surrogate:
    """One perceptron reads the nodes that a random mask leaves, and the mask.

    Attributes:
        hidden: Hidden units of each layer.
        iterations: Steps of training.
    """

    hidden: tuple[int, ...] = (128, 128)
    iterations: int = 600

    def __post_init__(self) -> None:
        check_settings(self, iterations="[1, inf)")
        check_hidden(self, self.hidden)

    def __call__(self, samples: Samples, generator: torch.Generator) -> "SurrogateInformation":
        return SurrogateInformation(samples, self, generator)


class SurrogateInformation:
    """I(X_S; Y) as the drop of held-out surprise, in nats at unit noise on standardised targets."""

    @torch.no_grad()
    def __init__(self, samples: Samples, settings: Surrogate, generator: torch.Generator) -> None:
        data = prepare(samples)
        fit, held = split_by_image(samples.images, generator)
        self.num_nodes = len(samples.blocks)
        self._node_of = torch.full((samples.x.shape[1],), -1)
        self._node_of[samples.blocks.cpu().flatten()] = torch.arange(samples.blocks.numel()) // samples.blocks.shape[1]
        self._node_of = self._node_of.to(samples.x.device)
        sizes = (samples.x.shape[1] + self.num_nodes, *settings.hidden, data.outputs)
        self._still = torch.stack([(data.x[:, block] == 0).all() for block in samples.blocks])
        self._net = Perceptrons(1, sizes, generator, samples.x.device, _LEARNING_RATE)
        for step in range(settings.iterations):
            rows = fit[torch.randint(len(fit), (min(_BATCH, len(fit)),), generator=generator)]
            masks = _random_masks(len(rows), self.num_nodes, generator).to(samples.x.device)
            rate = 0.5 + 0.5 * cos(pi * step / settings.iterations)
            self._net.step(self._mask(data.x[rows], masks)[None], data.y[rows][None], rate)
        self._x, self._y, self._nothing = data.x[held], data.y[held], data.nothing[held]
        self._images = torch.unique(samples.images[held], return_inverse=True)[1].cpu()
        self._alive = torch.ones(self.num_nodes, dtype=torch.bool, device=samples.x.device)
        self._now = self._surprise(self._alive[None])[0]
        self._last: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def marginal(self) -> Tensor:
        alone = torch.eye(self.num_nodes, dtype=torch.bool, device=self._x.device)
        nothing = self._surprise(torch.zeros_like(alone[:1])).mean()
        return (nothing - self._means(alone)).double().cpu()

    @torch.no_grad()
    def losses(self) -> Tensor:
        nodes = torch.nonzero(self._alive).flatten()
        out = torch.full((self.num_nodes,), torch.inf, dtype=torch.float64)
        out[nodes.cpu()] = (self._means(self._without(nodes)) - self._now.mean()).double().cpu()
        return out

    def loss(self, node: int) -> float:
        return float(self._differences(node).mean())

    def remove(self, node: int) -> None:
        self._now = self._after(node)
        self._alive[node] = False
        self._last = None

    def confidence(self, node: int, margin: float = 0.0) -> float:
        """Level of the paired t-test over held-out images that the loss exceeds the margin."""
        images = int(self._images.max()) + 1
        sums = torch.zeros(images, dtype=torch.float64).index_add_(0, self._images, self._differences(node))
        by_image = sums / torch.bincount(self._images, minlength=images) - margin
        mean, error = float(by_image.mean()), float(by_image.std() / images**0.5)
        return float(scipy.stats.t.cdf(mean / error, images - 1)) if images > 1 and error > 0 else float(mean > 0)

    @torch.no_grad()
    def total(self) -> float:
        return float((self._nothing - self._now).mean())

    def _differences(self, node: int) -> Tensor:
        """The surprise that each held-out row gains without the node in nats, shape [rows]."""
        return (self._after(node) - self._now).double().cpu()

    @torch.no_grad()
    def _after(self, node: int) -> Tensor:
        """Surprise at every held-out row without the node; the last answer is kept, as removals follow tests."""
        if self._last is None or self._last[0] != node:
            self._last = node, self._surprise(self._without(torch.tensor([node])))[0]
        return self._last[1]

    def _without(self, nodes: Tensor) -> Tensor:
        masks = self._alive.repeat(len(nodes), 1)
        masks[torch.arange(len(nodes)), nodes] = False
        return masks

    def _means(self, masks: Tensor) -> Tensor:
        return self._surprise(masks).mean(1)

    def _surprise(self, masks: Tensor) -> Tensor:
        """Surprise at every held-out row with the nodes of each mask, shape [masks, rows]."""
        found = []
        for part in masks.split(max(1, _ROWS // len(self._x))):
            x = self._mask(self._x.repeat(len(part), 1), part.repeat_interleave(len(self._x), 0))
            found.append(surprise(self._net(x[None])[0], self._y.repeat(len(part), *[1] * (self._y.ndim - 1))))
        return torch.cat(found).reshape(len(masks), -1)

    def _mask(self, x: Tensor, masks: Tensor) -> Tensor:
        """Features of the nodes in the masks, the others at their mean, and the masks; [rows, features + nodes].

        Nodes that never vary count as there, so that nothing can depend on them.
        """
        values = (masks | self._still).to(x.dtype)
        always = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
        return torch.cat([x * torch.cat([values, always], 1)[:, self._node_of], values], 1)


def _random_masks(rows: int, nodes: int, generator: torch.Generator) -> Tensor:
    """Sets of every size equally often, from none to all, shape [rows, nodes]."""
    share = torch.rand(rows, 1, generator=generator) * (1 + 2 / nodes) - 1 / nodes
    return torch.rand(rows, nodes, generator=generator) < share
