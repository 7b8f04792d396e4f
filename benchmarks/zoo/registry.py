"""Patterns: a small network, a call of it, and the groups that can be pruned from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[[int, torch.Generator], Any]
PATTERNS: dict[str, "Pattern"] = {}


@dataclass(frozen=True)
class Pattern:
    """A network with the block structure of a published architecture, and what can be pruned from it.

    Attributes:
        name: What it is called in the table.
        build: Makes the network; its weights come from the global generator.
        inputs: `inputs(samples, generator)` -> a Tensor, a tuple of arguments, or a dict of keyword arguments.
        groups: The manifest, written by hand: {a module, or a parameter, that produces the nodes: number of nodes}.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    groups: Mapping[str, int]

    @property
    def family(self) -> str:
        """The file it stands in, such as "mobile"."""
        return self.build.__module__.rpartition(".")[2]

    def model(self, seed: int = 0) -> nn.Module:
        """The network in eval mode, the same for the same seed, with the running statistics of a trained one."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.build().eval()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    _randomise(module)
        return model

    def batch(self, samples: int = 2, seed: int = 0) -> Any:
        """One input, the same for the same seed."""
        return self.inputs(samples, torch.Generator().manual_seed(seed))


def pattern(name: str, inputs: Inputs, groups: Mapping[str, int]) -> Callable[[Callable[[], nn.Module]], Any]:
    """Registers the function below it as the builder of a pattern."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if name in PATTERNS:
            raise ValueError(f"there is a pattern '{name}' already")
        PATTERNS[name] = Pattern(name, build, inputs, groups)
        return build

    return register


def gauss(*shape: int) -> Inputs:
    """Inputs of shape [samples, *shape]."""
    return lambda samples, generator: torch.randn(samples, *shape, generator=generator)


def image(channels: int, size: int) -> Inputs:
    """Inputs of shape [samples, channels, size, size]."""
    return gauss(channels, size, size)


@torch.no_grad()
def _randomise(norm: nn.modules.batchnorm._NormBase) -> None:
    for tensor, low, high in (
        (norm.running_mean, -1.0, 1.0),
        (norm.running_var, 0.5, 2.0),
        (norm.weight, 0.5, 1.5),
        (norm.bias, -1.0, 1.0),
    ):
        if isinstance(tensor, Tensor):
            tensor.uniform_(low, high)
