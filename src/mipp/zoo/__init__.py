"""Networks, data sets and training for the demo, the command line and the experiments; the core never imports them."""

from mipp.zoo.data import DataSetError, ImageData
from mipp.zoo.networks import VGG, DigitsCNN, LeNet5, networks, vgg11, vgg16, vgg19
from mipp.zoo.readers import DATA_SETS, cifar10, cifar100, digits, load, mnist
from mipp.zoo.resnets import (
    BasicBlock,
    Bottleneck,
    CifarResNet,
    ResNet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet110,
)
from mipp.zoo.training import accuracy, fit

__all__ = [
    "DATA_SETS",
    "VGG",
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "DataSetError",
    "DigitsCNN",
    "ImageData",
    "LeNet5",
    "ResNet",
    "accuracy",
    "cifar10",
    "cifar100",
    "digits",
    "fit",
    "load",
    "mnist",
    "networks",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "vgg11",
    "vgg16",
    "vgg19",
]
