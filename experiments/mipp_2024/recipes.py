"""Training before and after pruning: the paper's Table 2, and short forms of it.

Table 2 leaves open by how much the learning rate falls at a milestone (here to a tenth, as is usual) and the settings
of mixup and cutout (here those of their papers: Beta(1, 1), and holes of 8 pixels for CIFAR-100).
"""

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from experiments.mipp_2024.epochs import Augmentation
from experiments.mipp_2024.setting import Setting
from experiments.mipp_2024.training import Recipe

from mipp.refit.learner import multiplies_bfloat16
from mipp.zoo import DataSetError

Scale = Literal["laptop", "gpu", "paper"]


class Recipes(NamedTuple):
    """The training of a data set's networks.

    Attributes:
        before: From the initial weights.
        after: Of what pruning left.
    """

    before: Recipe
    after: Recipe


_LIGHT: tuple[Augmentation, ...] = ("crop", "flip")
_HEAVY: tuple[Augmentation, ...] = (*_LIGHT, "mixup", "cutout")

_MNIST = Recipe(90, 100, 1e-2, (30, 60), weight_decay=1e-4)
_CIFAR10 = Recipe(200, 128, 1e-1, (100, 150), augment=_LIGHT)
_CIFAR100 = replace(_CIFAR10, batch_size=256, augment=_HEAVY)
_IMAGENET = Recipe(90, 1024, 1e-1, (30, 60), weight_decay=1e-4, augment=_LIGHT)
_CIFAR_AFTER = {"epochs": 120, "learning_rate": 1e-2, "milestones": (60, 90)}

PAPER = {
    "mnist": Recipes(_MNIST, _MNIST),
    "cifar10": Recipes(_CIFAR10, replace(_CIFAR10, **_CIFAR_AFTER)),
    "cifar100": Recipes(_CIFAR100, replace(_CIFAR100, **_CIFAR_AFTER)),
    "imagenet": Recipes(_IMAGENET, replace(_IMAGENET, epochs=75, learning_rate=1e-2)),
}
"""Table 2, by data set."""

_FAST = Recipe(16, 512, 0.2, nesterov=True, augment=_LIGHT, precision="bf16-mixed")
_FAST_IMAGENET = replace(_FAST, batch_size=1024, learning_rate=0.8, weight_decay=5e-5)

SHORT = {
    "digits": Recipes(Recipe(8, 64, 0.05, nesterov=True), Recipe(5, 64, 0.02, nesterov=True)),
    "mnist": Recipes(Recipe(5, 128, 0.05, nesterov=True), Recipe(5, 128, 0.01, nesterov=True)),
    "cifar10": Recipes(_FAST, replace(_FAST, epochs=5, learning_rate=0.05)),
    "cifar100": Recipes(replace(_FAST, epochs=24), replace(_FAST, epochs=5, learning_rate=0.05)),
    "imagenet": Recipes(_FAST_IMAGENET, replace(_FAST_IMAGENET, epochs=5, learning_rate=0.1)),
}
"""Fewer epochs under one cycle of the learning rate, by data set; no mixup and no cutout, which need long training.

The figures train for one epoch after pruning, too, under the same recipe.

That of MNIST is the one of `benchmarks.workloads.lenet`, whose runs the figures share."""

ONCE = {
    "vgg11": replace(_FAST, epochs=12, batch_size=256, learning_rate=0.05),
    "resnet18": replace(_FAST, epochs=8, batch_size=256, learning_rate=0.1),
    "vgg19": replace(_FAST, epochs=20, batch_size=128, learning_rate=0.01),
    "resnet50": replace(_FAST, epochs=30, batch_size=128, learning_rate=0.05),
}
"""One training of a network on a processor, by network: half an hour for VGG-11 on one core that multiplies bfloat16.

`experiments.mipp_2024.rates` chose the learning rates of VGG-11 and VGG-19. ResNet-18 was trained at one that nobody
chose; ResNet-50 has not been trained yet."""

AGAIN = {"vgg11": replace(_FAST, epochs=1, batch_size=128, learning_rate=0.02)}
"""One epoch on what pruning left of a network that was trained once; `experiments.mipp_2024.rates` chose its rate."""


def once(network: str, setting: Setting = Setting()) -> Recipe:  # noqa: B008 - it is frozen
    """The recipe of a network that is trained once, in bfloat16 where the processor multiplies it."""
    return replace(ONCE[network], precision=_fast_precision(), setting=setting)


def again(network: str, setting: Setting = Setting()) -> Recipe:  # noqa: B008 - it is frozen
    """The recipe of such a network after pruning, in bfloat16 where the processor multiplies it."""
    return replace(AGAIN[network], precision=_fast_precision(), setting=setting)


def _fast_precision() -> Literal["32-true", "bf16-mixed"]:
    return "bf16-mixed" if multiplies_bfloat16(torch.device("cpu")) else "32-true"


def recipes(data: str, scale: Scale, setting: Setting = Setting()) -> Recipes:  # noqa: B008 - it is frozen
    """The recipes for a data set.

    Args:
        data: Its name.
        scale: "paper": Table 2. "gpu": minutes on a GPU. "laptop": the same in float32, which every CPU computes well.
        setting: Where they run.

    Raises:
        DataSetError: There are none for that name: the digits are not in Table 2.
    """
    name = data.removesuffix("-deformed")
    known = PAPER if scale == "paper" else SHORT
    if name not in known:
        raise DataSetError(f"there are no {scale} recipes for {data!r}; expected one of {', '.join(known)}")
    found = known[name]
    if scale == "laptop":
        found = Recipes(*(replace(recipe, precision="32-true") for recipe in found))
    return Recipes(*(replace(recipe, setting=setting) for recipe in found))
