"""Residual networks against published key names."""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from mipp import zoo


def conv(inputs: int, outputs: int, size: int = 3, bias: int = 0) -> int:
    return inputs * outputs * size**2 + bias * outputs + 2 * outputs  # with its batch norm


def build(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return zoo.networks()[name](**options)


def expected_keys(depths: tuple[int, ...], convolutions: int, projected: tuple[int, ...], classifier: str) -> set[str]:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    blocks = [f"layer{s}.{i}." for s, depth in enumerate(depths, 1) for i in range(depth)]
    pairs = [(f"{block}conv{j}", f"{block}bn{j}") for block in blocks for j in range(1, convolutions + 1)]
    pairs += [(f"layer{s}.0.downsample.0", f"layer{s}.0.downsample.1") for s in projected]
    keys = {f"{classifier}.weight", f"{classifier}.bias"}
    for convolution, bn in [("conv1", "bn1"), *pairs]:
        keys |= {f"{convolution}.weight"} | {f"{bn}.{entry}" for entry in norm}
    return keys


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", ((2, 2, 2, 2), 2, (2, 3, 4), "fc")),
        ("resnet34", ((3, 4, 6, 3), 2, (2, 3, 4), "fc")),
        ("resnet50", ((3, 4, 6, 3), 3, (1, 2, 3, 4), "fc")),
        ("resnet20", ((3, 3, 3), 2, (), "linear")),
        ("resnet56", ((9, 9, 9), 2, (), "linear")),
        ("resnet110", ((18, 18, 18), 2, (), "linear")),
    ],
)
def test_residual_networks_have_the_published_key_names(name, arguments):
    assert set(build(name).state_dict()) == expected_keys(*arguments)


@pytest.mark.parametrize(("widths", "pads"), [((4, 8, 16), (2, 2)), ((4, 7, 8), (1, 2))])
def test_shortcuts_subsample_and_pad_with_zeros_on_both_sides(widths, pads):
    x = torch.randn(2, 4, 9, 9)
    shortcut = zoo.resnet20(widths=widths).layer2[0].downsample
    assert torch.equal(shortcut(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *pads)))
    assert not list(shortcut.parameters())


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth is {depth}; expected 6n \+ 2"):
        zoo.CifarResNet(depth)


@pytest.mark.skipif("MIPP_DATA_DIR" not in os.environ, reason="MIPP_DATA_DIR names no folder of real data")
@pytest.mark.parametrize("file", ["resnet20-12fca82f", "resnet56-4bfd9763"])
def test_public_weights_load_without_a_key_left_over(file):
    path = Path(os.environ["MIPP_DATA_DIR"], "weights", f"{file}.safetensors")
    if not path.is_file():
        pytest.skip(f"no {path}")
    model = zoo.networks()[file.split("-")[0]]()
    model.load_state_dict(load_file(path), strict=True)
