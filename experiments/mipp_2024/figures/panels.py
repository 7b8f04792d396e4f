"""The networks and data sets of Figure 2, as workloads: pruned before or after training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.cifar import SAMPLES
from benchmarks.workloads import lenet
from experiments.mipp_2024.data import load
from experiments.mipp_2024.figures.base import Scale, Site
from experiments.mipp_2024.networks import build
from experiments.mipp_2024.recipes import recipes
from experiments.mipp_2024.setting import Setting
from experiments.mipp_2024.training import Recipe
from torch import nn

from mipp import grid, zoo
from mipp.grid import Trainer

SKIPS = ("conv1", "*downsample*")
"""As in the paper, what skip connections carry stays whole."""


@dataclass(frozen=True)
class Panel:
    """A network on a data set.

    Attributes:
        network: Its name in the zoo.
        data: The name of the data set.
        least: The smallest scale it is run at.
        exclude: Modules whose nodes stay.
        top: Numbers of guesses.
    """

    network: str
    data: str
    least: Scale
    exclude: tuple[str, ...] = ()
    top: tuple[int, ...] = (1,)

    @property
    def name(self) -> str:
        """Its title."""
        return f"{self.network} {self.data}"


DIGITS = Panel("digits_cnn", "digits", "smoke")
LENET = Panel("lenet5", "mnist", "laptop")
PANELS = (
    LENET,
    Panel("vgg11", "cifar10", "gpu"),
    Panel("resnet18", "cifar10", "gpu", SKIPS),
    Panel("resnet34", "cifar10", "paper", SKIPS),
    Panel("vgg19", "cifar100", "paper"),
    Panel("resnet50", "cifar100", "paper", SKIPS),
)
IMAGENET = Panel("resnet50", "imagenet", "paper", SKIPS, (1, 5))


def workload(panel: Panel, site: Site, *, trained: bool) -> grid.Workload:
    """A network on its data set, trained before pruning or not, and for one epoch or in full afterwards."""
    if _shared(panel, site):
        return lenet(trained=trained, device=site.device)
    train, test = (load(panel.data, split) for split in ("train", "test"))
    if isinstance(train, zoo.ImageData):
        train, test = train.to(site.device), test.to(site.device)
    if site.scale == "smoke":
        return _smoke(panel, train, test, site.device, trained=trained)
    made = recipes(panel.data, site.scale, Setting(site.folder("checkpoints"), progress=False))
    return grid.Workload(
        panel.network,
        partial(place, panel, train, site.device),
        train,
        test,
        before=made.before if trained else grid.Recipe(),
        after=_after(made.after if trained else made.before, site.scale),
        whole=made.before,
        samples=SAMPLES,
        exclude=panel.exclude,
        compensate=trained,
        top=panel.top,
    )


def folder(panel: Panel, site: Site, *, trained: bool) -> Path:
    """The folder of the runs of a workload; `benchmarks.methods` shares those of LeNet-5."""
    stage = "after" if trained else "before"
    return site.folder(f"lenet-{stage}" if _shared(panel, site) else f"{panel.network}-{panel.data}-{stage}")


def _smoke(panel: Panel, train: zoo.ImageData, test: zoo.ImageData, device: str, *, trained: bool) -> grid.Workload:
    """As little as still runs everything."""
    recipe = grid.Recipe(1, learning_rate=0.02, batch_size=64)
    make = partial(place, panel, train, device)
    before = recipe if trained else grid.Recipe()
    few, fewer = train.subset(slice(512)), test.subset(slice(100))
    return grid.Workload(panel.network, make, few, fewer, before, {"1 epoch": recipe}, recipe, 256, compensate=trained)


def _shared(panel: Panel, site: Site) -> bool:
    return panel == LENET and site.scale in ("laptop", "gpu")


def _after(full: Recipe, scale: Scale) -> Mapping[str, Trainer]:
    """One epoch by itself, five, and at the paper's scale the whole recipe."""
    lengths = [1, 5, full.epochs] if scale == "paper" else [1, 5]
    return {
        f"{n:g} epoch{'s' * (n > 1)}": full if n == full.epochs else replace(full, epochs=n, milestones=())
        for n in lengths
    }


def place(panel: Panel, train: zoo.ImageData, device: str, seed: int) -> nn.Module:
    """A panel's network as it is initialised, on a device."""
    return build(panel.network, train, seed).to(device)
