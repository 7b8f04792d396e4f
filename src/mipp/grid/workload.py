"""What all runs of a grid share: a network, data, and how it is trained before and after pruning."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mipp.zoo import ImageData, fit

_BATCH = 128


class Trainer(Protocol):
    """What trains a network in place: a `Recipe`, or anything that is used like one."""

    @property
    def epochs(self) -> float:
        """Passes over the data; 0: there is no training."""

    def options(self) -> dict[str, Any]:
        """What its result depends on, as plain data."""

    def __call__(
        self,
        model: nn.Module,
        data: ImageData,
        seed: int,
        *,
        fraction: float = 1.0,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        """Trains in place for a fraction of its epochs, and calls `after_step` after each step of the optimiser."""


@dataclass(frozen=True)
class Recipe:
    """How to train: see `mipp.zoo.fit`; 0 epochs: not at all."""

    epochs: float = 0
    learning_rate: float = 0.05
    batch_size: int = 128
    weight_decay: float = 5e-4
    augment: Literal["crop-flip"] | None = None

    def options(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)

    def __call__(
        self,
        model: nn.Module,
        data: ImageData,
        seed: int,
        *,
        fraction: float = 1.0,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        """Trains in place for a fraction of the recipe."""
        if self.epochs:
            options = {**asdict(self), "epochs": self.epochs * fraction}
            fit(model, data, seed=seed, after_step=after_step, **options)


@dataclass(frozen=True)
class Workload:
    """A network to prune, the data to do it with, and what happens before and after.

    Attributes:
        name: Says what it is, and with the other settings names the runs.
        make: `make(seed)` -> the network; with its trained weights where `before` trains for 0 epochs and it is to be
            pruned after training.
        train: Training images: calibration, training.
        test: Test images: accuracy.
        before: Training before pruning.
        after: Training after pruning.
        whole: What methods that train (IMP, OTO) understand by a whole training.
        samples: Calibration images.
        exclude: Modules whose nodes stay.
        compensate: Also measure the network with its consumers refitted.
    """

    name: str
    make: Callable[[int], nn.Module]
    train: ImageData
    test: ImageData
    before: Trainer = Recipe()
    after: Trainer = Recipe()
    whole: Trainer = Recipe(epochs=1)
    samples: int = 1024
    exclude: Sequence[str] = ()
    compensate: bool = True

    def options(self) -> dict[str, Any]:
        """The settings as plain data: runs with the same settings are the same run."""
        data = [self.train.name, len(self.train), len(self.test)]
        recipes = {name: getattr(self, name).options() for name in ("before", "after", "whole")}
        others = {"samples": self.samples, "exclude": list(self.exclude), "compensate": self.compensate}
        return {"name": self.name, "data": data, **recipes, **others}

    def batches(self, seed: int) -> list[Any]:
        """A draw of labelled calibration batches."""
        generator = torch.Generator().manual_seed(seed)
        return list(self.train.batches(_BATCH, limit=self.samples, generator=generator))

    def dense(self, seed: int, folder: Path) -> nn.Module:
        """The network that is pruned; its training is done once and kept in the folder."""
        model = self.make(seed)
        if not self.before.epochs:
            return model.eval()
        settings = {key: self.options()[key] for key in ("name", "data", "before")}
        path = folder / f"dense-{digest({**settings, 'seed': seed})}.safetensors"
        if path.exists():
            model.load_state_dict(load_file(path))
        else:
            self.before(model, self.train, seed)
            part = path.with_suffix(".part")
            save_file({name: t.contiguous() for name, t in model.state_dict().items()}, part)
            part.replace(path)
        return model.eval()


def digest(options: Any) -> str:
    """Sixteen digits that name plain data."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
