"""A method's training changes all weights that it says it changes."""

import pytest
import torch.nn.functional as F
from networks import Stateful, halve, normal
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


class Frozen(nn.Module):
    """Keeps its batch norm in eval mode, and returns nothing from train()."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x))))

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()


def test_train_may_return_nothing():
    result = halve(Frozen(), [normal(20, 6), normal(20, 6)], recover="distill")
    assert result.plan.widths == {"a": 8}


class Forgetful(mipp.methods.Random):
    def plan(self, task, budget):
        return super().plan(task, budget), {"0.weight": task.model.state_dict()["0.weight"]}


def test_a_method_that_leaves_out_some_of_the_weights_it_changes_is_not_believed():
    model = nn.Sequential(Stateful(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with pytest.raises(mipp.MippError, match=r"'0\.bias' has shape None.*Return a state dict that holds every tensor"):
        halve(model, [normal(50, 6)], method=Forgetful())
