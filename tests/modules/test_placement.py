"""A model is worked on where it is, or on a copy elsewhere."""

import pytest
import torch
from torch import nn

import mipp
from mipp.modules.placement import device_of, place_model


def test_a_model_stays_itself_where_it_is_and_is_copied_elsewhere():
    model = nn.Linear(2, 2)
    assert place_model(model) is model
    assert place_model(model, "cpu") is model
    copied = place_model(model, "meta")
    assert device_of(copied) == torch.device("meta")
    assert device_of(model) == torch.device("cpu")


def test_a_model_without_tensors_is_nowhere():
    model = nn.ReLU()
    assert device_of(model) is None
    assert place_model(model) is model


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(mipp.MippError, match="cannot be used"):
        place_model(nn.Linear(2, 2), "no_such_device")
