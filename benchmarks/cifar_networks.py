"""Networks for CIFAR-10 that are trained here: VGG-11, one of a quarter of its widths, a MobileNetV2 and a small ViT.

    MIPP_DATA_DIR=... python -m benchmarks.cifar_networks --weights FOLDER

Trains what is not yet in the folder, in bfloat16 where that is faster, on a GPU if there is one, for so few epochs
that two cores do. Nothing in `mipp` was chosen on the MobileNetV2 and the transformer: they stand in the tables to
show what the defaults do elsewhere.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.cifar import WEIGHTS, pretrained
from benchmarks.record import Record, Row
from benchmarks.zoo.attention import Block, FusedAttention
from benchmarks.zoo.mobile import ConvNormActivation, InvertedResidual
from mipp import zoo
from mipp.refit.learner import multiplies_bfloat16


class MobileNetV2(nn.Module):
    """Inverted residuals with the published widths; one stride fewer, for images of 32 x 32."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNormActivation(3, 32, stride=2)]
        width = 32
        for expand, outputs, count, stride in self.STAGES:
            for index in range(count):
                layers.append(InvertedResidual(width, outputs, 1 if index else stride, expand))
                width = outputs
        self.features = nn.Sequential(*layers, ConvNormActivation(width, 1280, 1))
        self.classifier = nn.Linear(1280, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4, four blocks of width 128, four heads, the mean of all tokens."""

    def __init__(self, width: int = 128, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, 4)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.blocks = nn.Sequential(*(Block(width, FusedAttention(width, heads)) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens)).mean(1))


@dataclass(frozen=True)
class Training:
    """A network and how it is trained."""

    make: Callable[[], nn.Module]
    epochs: int
    learning_rate: float


TRAININGS: Mapping[str, Training] = {
    "vgg11": Training(zoo.vgg11, 15, 0.05),
    "vgg11 of a quarter": Training(partial(zoo.vgg11, widths=(16, 32, 64, 128, 128)), 10, 0.05),
    "mobilenetv2": Training(MobileNetV2, 10, 0.1),
    "vit": Training(VisionTransformer, 10, 0.05),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained weights")
    parser.add_argument("--network", choices=TRAININGS, action="append", help="all of them by default")
    options = parser.parse_args()
    options.weights.mkdir(parents=True, exist_ok=True)
    record = Record("cifar_networks", batch=128, augment="crop-flip", seed=0)
    for name in options.network or TRAININGS:
        if not path_of(options.weights, name).exists():
            record.measure({"network": name}, partial(train, name, options.weights))


def train(name: str, folder: Path) -> Row:
    """Trains a network, keeps its weights, and returns its test accuracy."""
    training, device = TRAININGS[name], "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = training.make().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data, test = (zoo.load("cifar10", split).to(device) for split in ("train", "test"))
    start = time.perf_counter()
    zoo.fit(
        model,
        data,
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        batch_size=128,
        augment="crop-flip",
        autocast_bf16=multiplies_bfloat16(torch.device(device)),
    )
    minutes = (time.perf_counter() - start) / 60
    save_file({key: t.cpu().contiguous() for key, t in model.state_dict().items()}, path_of(folder, name))
    sizes = {"epochs": training.epochs, "params": sum(p.numel() for p in model.parameters())}
    return {**sizes, "accuracy": round(zoo.accuracy(model, test), 2), "minutes": round(minutes, 2)}


def trained(name: str, folder: Path) -> nn.Module:
    """A network with its trained weights."""
    model = TRAININGS[name].make()
    model.load_state_dict(load_file(path_of(folder, name)))
    return model.eval()


def dense(name: str, folder: Path) -> nn.Module:
    """A network with the weights in the folder, published or trained here."""
    return pretrained(name, folder) if name in WEIGHTS else trained(name, folder)


def path_of(folder: Path, name: str) -> Path:
    """The path of a network's weights, published or trained here."""
    if name in WEIGHTS:
        return folder / WEIGHTS[name]
    return folder / f"cifar_{name.replace(' ', '_')}.safetensors"


if __name__ == "__main__":
    main()
