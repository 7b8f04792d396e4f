"""Networks against published parameter counts."""

import pytest
import torch
from torch import nn

from mipp import zoo


def conv(inputs: int, outputs: int, size: int = 3, bias: int = 0) -> int:
    return inputs * outputs * size**2 + bias * outputs + 2 * outputs  # with its batch norm


def count_vgg(layers: list[int]) -> int:
    return sum(conv(i, o, bias=1) for i, o in zip([3, *layers], layers, strict=False)) + 512 * 10 + 10


def count_resnet(depths: tuple[int, ...], expansion: int) -> int:
    total, inputs = conv(3, 64), 64
    for depth, width in zip(depths, (64, 128, 256, 512), strict=True):
        outputs = expansion * width
        for block in range(depth):
            if expansion == 1:
                total += conv(inputs, width) + conv(width, width)
            else:
                total += conv(inputs, width, 1) + conv(width, width) + conv(width, outputs, 1)
            if block == 0 and inputs != outputs:
                total += conv(inputs, outputs, 1)
            inputs = outputs
    return total + inputs * 10 + 10


def count_cifar_resnet(depth: int) -> int:
    n = (depth - 2) // 6
    stages = [(16, 16), (16, 32), (32, 64)]
    return conv(3, 16) + sum(conv(i, o) + (2 * n - 1) * conv(o, o) for i, o in stages) + 64 * 10 + 10


# Published: LeNet-5 61,706; VGG-16 and ResNets of github.com/kuangliu/pytorch-cifar; CIFAR ResNets as 0.27 M ... 1.7 M.
COUNTS = {
    "lenet5": 61_706,
    "digits_cnn": 93_546,
    "vgg11": 9_231_114,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}


INPUTS = {"lenet5": (1, 28, 28), "digits_cnn": (1, 8, 8)}


def build(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return zoo.networks()[name](**options)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_network_has_a_published_count():
    assert zoo.networks().keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_networks_have_the_published_number_of_parameters(name):
    assert num_parameters(build(name)) == COUNTS[name]


def test_the_published_numbers_follow_from_the_layers():
    stages = [64, 128, 256, 512, 512]
    for name, depths in {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}.items():
        assert COUNTS[name] == count_vgg([w for w, d in zip(stages, depths, strict=True) for _ in range(d)])
    assert COUNTS["resnet18"] == count_resnet((2, 2, 2, 2), 1)
    assert COUNTS["resnet34"] == count_resnet((3, 4, 6, 3), 1)
    assert COUNTS["resnet50"] == count_resnet((3, 4, 6, 3), 4)
    for depth in (20, 32, 44, 56, 110):
        assert COUNTS[f"resnet{depth}"] == count_cifar_resnet(depth)


@pytest.mark.parametrize("name", COUNTS)
def test_networks_map_images_to_one_logit_a_class(name):
    channels, *size = INPUTS.get(name, (3, 32, 32))
    for options in [{}, {"num_classes": 7, "in_channels": channels + 1}]:
        model = build(name, **options)
        images = torch.zeros(2, options.get("in_channels", channels), *size, device="meta")
        assert model(images).shape == (2, options.get("num_classes", 10))


@pytest.mark.parametrize(
    ("name", "widths", "size"),
    [
        ("lenet5", (2, 3, 5, 4), 28),
        ("digits_cnn", (3, 4), 8),
        ("vgg11", (2, 3, 4, 5, 6), 32),
        ("resnet18", (2, 3, 4, 5), 32),
        ("resnet50", (2, 3, 4, 5), 32),
        ("resnet20", (2, 3, 6), 32),
    ],
)
def test_narrow_networks_run_forward_and_backward(name, widths, size):
    model = zoo.networks()[name](in_channels=1, widths=widths)
    logits = model(torch.randn(3, 1, size, size))
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet20"])
def test_larger_images_are_welcome_too(name):
    assert build(name)(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 10)


def test_lenet5_has_its_five_layers():
    shapes = {key: tuple(value.shape) for key, value in build("lenet5").state_dict().items() if key.endswith("weight")}
    assert shapes == {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }


def test_vgg_has_features_and_a_classifier():
    model = zoo.vgg16(widths=(2, 2, 2, 2, 2))
    assert {key.split(".")[0] for key in model.state_dict()} == {"features", "classifier"}
    assert sum(isinstance(module, nn.Conv2d) for module in model.features) == 13
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.features) == 5
