"""The networks of the paper on its data sets, initialised by a seed or with published weights."""

from pathlib import Path

import torch
from experiments.mipp_2024.epochs import Data
from safetensors.torch import load_file
from torch import nn

from mipp import zoo
from mipp.errors import MippError

PAIRS = (
    ("lenet5", "mnist"),
    ("lenet5", "mnist-deformed"),
    ("vgg11", "cifar10"),
    ("resnet18", "cifar10"),
    ("resnet34", "cifar10"),
    ("vgg19", "cifar100"),
    ("resnet50", "cifar100"),
    ("resnet50", "imagenet"),
)
"""Network and data set of each of the paper's experiments."""


def build(network: str, data: Data, seed: int = 0, weights: Path | None = None) -> nn.Module:
    """A network for the images and classes of a data set, in evaluation mode.

    Args:
        network: A name in `mipp.zoo.networks()`. For ImageNet ResNets have their original stem, and the names and
            shapes of their tensors are torchvision's, so that its weights load.
        data: What it is for.
        seed: Of the initial weights; torch's own random numbers stay as they are.
        weights: A file of weights to load: .safetensors, or a state dict as `torch.save` writes it.

    Raises:
        MippError: There is no such network, or the weights are not of this network.
    """
    networks = zoo.networks()
    if network not in networks:
        raise MippError(f"no network is called {network!r}; expected one of {', '.join(networks)}")
    stem = {"stem": "imagenet"} if data.name == "imagenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = networks[network](num_classes=data.num_classes, in_channels=len(data.mean), **stem)
        except TypeError as error:
            raise MippError(f"{network} has no form for ImageNet; expected a ResNet") from error
    return model.eval() if weights is None else load_weights(model, weights).eval()


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Loads weights into a model in place and returns it.

    Raises:
        MippError: They are not the weights of this model.
    """
    read = load_file if path.suffix == ".safetensors" else _load_state
    try:
        model.load_state_dict(read(path))
    except RuntimeError as error:
        raise MippError(f"{path} does not fit {type(model).__name__}: {error}; expected its state dict") from error
    return model


def _load_state(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
