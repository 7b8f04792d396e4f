"""Models as they are named: by import path or library, with weights from a file."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mipp.cli.errors import CommandError
from mipp.cli.models import ModelSource, require
from mipp.errors import MissingRequirementError


@pytest.mark.parametrize(
    ("name", "library", "within"),
    [("hf:a/b", "hf", "a/b"), ("timm:resnet18", "timm", "resnet18"), ("nets:Net", "", "nets:Net")],
)
def test_a_prefix_is_that_of_a_library(name, library, within):
    source = ModelSource(name)
    assert (source.library, source.within) == (library, within)


def test_weights_are_loaded_by_name_without_the_prefix_of_a_wrapper(tmp_path):
    state = {f"module.{name}": tensor + 1 for name, tensor in ModelSource("nets:Net").make().state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = ModelSource("nets:Net", tmp_path / "w.safetensors").make()
    assert all(torch.equal(t, state[f"module.{name}"]) for name, t in model.state_dict().items())


def test_weights_of_another_model_are_refused_with_what_they_lack(tmp_path):
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CommandError, match=r"it lacks 0.bias, 0.weight, 2.bias and 1 more; it has bias, weight"):
        ModelSource("nets:Net", tmp_path / "w.safetensors").make()


def test_a_model_is_the_same_for_one_seed():
    one, other, third = (ModelSource("nets:Net").make(seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_a_library_that_is_not_there_is_named_with_the_line_that_installs_it():
    with pytest.raises(MissingRequirementError, match=r"--purpose needs not_there.*pip install its-name"):
        require("not_there", "--purpose", "its-name")
