"""The part that all runs of a grid share: a network, data, and the training before and after pruning."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from mipp.errors import MippError, clip
from mipp.grid.store import Job, once
from mipp.runtime.typed import FormError
from mipp.storage.folder import write_weights
from mipp.storage.tensor_files import read_tensors
from mipp.zoo import ImageData, accuracy, fit

_BATCH = 128


class Trainer(Protocol):
    """Trains a network in place: a `Recipe`, or any object with the same attributes."""

    @property
    def epochs(self) -> float:
        """Passes over the data; 0: there is no training."""

    def options(self) -> dict[str, Any]:
        """The settings that its result depends on, as plain data."""

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
    """Settings of `mipp.zoo.fit`; with 0 epochs nothing is trained."""

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
        after: Training after pruning; several, each from the pruned network, by what they are called.
        whole: What a whole training is, for methods that train (IMP, OTO).
        samples: Calibration images.
        calibration: What they are drawn from, if not from `train`.
        exclude: Modules whose nodes stay.
        compensate: Also measure the network after the refit.
        top: Values of k for which top-k accuracy is measured.
    """

    name: str
    make: Callable[[int], nn.Module]
    train: ImageData
    test: ImageData
    before: Trainer = Recipe()
    after: Trainer | Mapping[str, Trainer] = Recipe()
    whole: Trainer = Recipe(epochs=1)
    samples: int = 1024
    calibration: ImageData | None = None
    exclude: Sequence[str] = ()
    compensate: bool = True
    top: Sequence[int] = (1,)

    def options(self) -> dict[str, Any]:
        """The settings as plain data: runs with the same settings are the same run."""
        data = [self.train.name, len(self.train), len(self.test)]
        recipes = {"before": self.before.options(), "whole": self.whole.options()}
        after = {name: recipe.options() for name, recipe in self.trainings_after().items()}
        others = {"samples": self.samples, "exclude": list(self.exclude), "compensate": self.compensate}
        more = {} if self.calibration is None else {"calibration": [self.calibration.name, len(self.calibration)]}
        return {"name": self.name, "data": data, **recipes, "after": after, **others, **more, "top": list(self.top)}

    def trainings_after(self) -> dict[str, Trainer]:
        """The trainings after pruning, by name."""
        found = {"trained": self.after} if not isinstance(self.after, Mapping) else self.after
        return {name: recipe for name, recipe in found.items() if recipe.epochs}

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on the test images, in percent, by name: "accuracy", "top-5 accuracy"."""
        return {
            "accuracy" if top == 1 else f"top-{top} accuracy": accuracy(model, self.test, top=top) for top in self.top
        }

    def batches(self, seed: int) -> list[Any]:
        """A draw of labelled calibration batches."""
        generator = torch.Generator().manual_seed(seed)
        source = self.train if self.calibration is None else self.calibration
        return list(source.batches(_BATCH, limit=self.samples, generator=generator))

    def dense(self, seed: int, folder: Path) -> nn.Module:
        """The network that is pruned; its training is done once and kept in the folder."""
        model, training = self.make(seed), self.training(seed, folder)
        if training is not None:
            once(training)
            try:
                model.load_state_dict(read_tensors(training.path))
            except (FormError, RuntimeError) as error:  # damaged, or of other shapes
                raise MippError(
                    f"{training.path} holds no weights of {self.name} ({clip(str(error))}); remove it, and the network "
                    "is trained again."
                ) from error
        return model.eval()

    def training(self, seed: int, folder: Path) -> Job | None:
        """The training of the network that is pruned, as a job of `sweep`; None if there is none."""
        if not self.before.epochs:
            return None

        def write(path: Path) -> None:
            model = self.make(seed)
            self.before(model, self.train, seed)
            write_weights(model.state_dict(), path)

        settings = {key: self.options()[key] for key in ("name", "data", "before")}
        return Job(
            f"{self.name}, seed {seed}: training",
            folder / f"dense-{digest({**settings, 'seed': seed})}.safetensors",
            write,
        )


def digest(options: Any) -> str:
    """Sixteen digits that name plain data."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
