"""Models as they are named: by import path or library, with weights from a file."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mipp.cli.errors import CommandError
from mipp.cli.models import make_model
from mipp.cli.options import ModelSource


def test_weights_are_loaded_by_name_without_the_prefix_of_a_wrapper(tmp_path):
    state = {f"module.{name}": tensor + 1 for name, tensor in make_model(ModelSource("nets:Net")).state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    model = make_model(ModelSource("nets:Net", tmp_path / "w.safetensors"))
    assert all(torch.equal(t, state[f"module.{name}"]) for name, t in model.state_dict().items())


def test_weights_of_another_model_are_refused_with_what_they_lack(tmp_path):
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CommandError, match=r"it lacks 0.bias, 0.weight, 2.bias and 1 more; it has bias, weight"):
        make_model(ModelSource("nets:Net", tmp_path / "w.safetensors"))


def test_a_model_is_the_same_for_one_seed():
    one, other, third = (make_model(ModelSource("nets:Net"), seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
