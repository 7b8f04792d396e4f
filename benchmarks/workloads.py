"""Networks as every grid prunes them, so that what several grids need is computed once."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.cifar import EXCLUDED, SAMPLES, pretrained
from mipp import grid, zoo
from mipp.methods import Method, Random, Reinitialised, Scratch
from mipp.methods import all as all_methods
from mipp.plan.budget import Budget

EPOCHS = 5
SEEDS = range(3)
MATCHED = [Budget(macs=0.3, min_keep=0), Budget(params=0.2, min_keep=0)]
SPARSE = [Budget(nodes=0.3, min_keep=0), Budget(nodes=0.1, min_keep=0)]
RUNS = Path("runs")


def lenet(*, trained: bool, further: bool = True, images: int | None = None, device: str = "cpu") -> grid.Workload:
    """LeNet-5 on MNIST, pruned after 5 epochs of training or before, and trained for 1 or 5 epochs afterwards.

    Args:
        trained: Whether it is pruned after training.
        further: Whether it is trained afterwards.
        images: Only so many training images, and a quarter as many test images.
        device: Of the network and the data.
    """
    train, test = (zoo.load("mnist", split).to(device) for split in ("train", "test"))
    full = grid.Recipe(EPOCHS)
    rate = 0.01 if trained else full.learning_rate
    return grid.Workload(
        "lenet5",
        partial(lenet5, device=device),
        train if images is None else train.subset(slice(images)),
        test if images is None else test.subset(slice(images // 4)),
        before=full if trained else grid.Recipe(),
        after={"1 epoch": grid.Recipe(1, rate), f"{EPOCHS} epochs": grid.Recipe(EPOCHS, rate)} if further else {},
        whole=full,
        samples=SAMPLES,
        compensate=trained,
    )


def lenet5(seed: int, device: str = "cpu") -> nn.Module:
    """LeNet-5 as its layers are initialised."""
    torch.manual_seed(seed)
    return zoo.LeNet5().to(device)


def trained_lenet5(seed: int, folder: Path) -> nn.Module:
    """LeNet-5 with the weights in the folder, or trained and kept there."""
    model, path = lenet5(seed), folder / f"lenet5-{seed}.safetensors"
    if not path.exists():
        zoo.fit(model, zoo.load("mnist", "train"), epochs=EPOCHS, batch_size=128, seed=seed)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model.eval()


def resnet20(weights: Path, device: str = "cpu", images: int | None = None) -> grid.Workload:
    """ResNet-20 on CIFAR-10 with published weights; straight after pruning, and after one epoch.

    Args:
        weights: Folder of the pretrained weights.
        device: Of the network and the data.
        images: Only so many training images, half as many test images, and an eighth as many to calibrate on.
    """
    train, test = (zoo.load("cifar10", split).to(device) for split in ("train", "test"))
    return grid.Workload(
        "resnet20",
        partial(_pretrained, weights, device),
        train if images is None else train.subset(slice(images)),
        test if images is None else test.subset(slice(images // 2)),
        after=grid.Recipe(1, learning_rate=0.01, augment="crop-flip"),
        samples=SAMPLES if images is None else images // 8,
        exclude=EXCLUDED,
    )


def _pretrained(weights: Path, device: str, seed: int) -> nn.Module:
    return pretrained("resnet20", weights).to(device)


def folder(name: str, *, smoke: bool = False) -> Path:
    """The folder of the runs of a grid."""
    return RUNS / ("smoke" if smoke else "grids") / name


def peers() -> dict[str, Method]:
    """All methods, with the controls at MIPP's widths."""
    mipp = all_methods()["mipp"]()
    controls = {
        "random@mipp": Random(like=mipp),
        "reinit@mipp": Reinitialised(like=mipp),
        "scratch@mipp": Scratch(like=mipp),
    }
    return {name: make() for name, make in all_methods().items()} | controls
