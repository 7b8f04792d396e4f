"""Batch-norm scales by hand."""

import pytest
import torch
from tasks import task
from torch import nn

import mipp.methods
from mipp.errors import UnsupportedModelError


def scaled(*norms: bool) -> nn.Sequential:
    """Two hidden layers, each with a batch norm of scales -2, 1, 3 or without one."""
    layers: list[nn.Module] = []
    for inputs, norm in zip((4, 3), norms, strict=True):
        layers += [nn.Linear(inputs, 3), nn.BatchNorm1d(3) if norm else nn.Identity(), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(3, 2)).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.weight.data = torch.tensor([-2.0, 1.0, 3.0], dtype=torch.float64)
    return model


def test_the_score_is_the_size_of_the_scale_and_groups_without_one_come_last():
    scores = mipp.methods.BatchNormScale().rank(task(scaled(True, False)))
    assert scores["0"].tolist() == [2.0, 1.0, 3.0]
    assert scores["3"].min() > scores["0"].max()


def test_a_network_without_batch_norms_is_refused():
    with pytest.raises(UnsupportedModelError, match="choose another method"):
        mipp.methods.BatchNormScale().rank(task(scaled(False, False)))
