"""A forward pass that is not quite deterministic: the noise is measured and named, and is no failed cut."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


class Noisy(nn.Module):
    """Adds a little of what `draw` draws; with `fixed`, a hidden layer cannot be cut, whatever the noise."""

    def __init__(self, draw, level, fixed=False):
        super().__init__()
        torch.manual_seed(0)
        self.draw, self.level, self.fixed = draw, level, fixed
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x):
        h = self.a(x).relu()
        h = h + self.level * self.draw(h)
        h = self.b(h * (h.shape[1] / 16) if self.fixed else h)
        return self.c(h.relu())


DRAWS = {
    "torch": torch.randn_like,
    "dropout": F.dropout,
    "python": lambda h: h * random.gauss(0, 1),
}


def pruned(model):
    return mipp.prune(model, [torch.randn(64, 4) for _ in range(2)], mipp.Budget(nodes=0.5), progress=False)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("level", [1e-6, 1e-4])
def test_a_little_noise_is_named_and_does_not_fail_the_proof(draw, level):
    result = pruned(Noisy(DRAWS[draw], level))
    assert set(result.plan.widths) == {"a", "b"}
    said = [note for note in result.report.notes if "not deterministic" in note]
    assert len(said) == (level > 1e-5)
    assert all("differ by" in note and "e-0" in note for note in said)


def test_a_cut_that_fails_is_found_in_spite_of_the_noise():
    result = pruned(Noisy(torch.randn_like, 1e-4, fixed=True))
    assert set(result.plan.widths) == {"b"}


def test_a_deterministic_model_is_not_said_to_be_noisy():
    assert not any("deterministic" in note for note in pruned(Noisy(torch.zeros_like, 1.0)).report.notes)


def test_noise_is_no_other_run(tmp_path):
    def run():
        data, budget = [torch.ones(64, 4), torch.zeros(64, 4)], mipp.Budget(nodes=0.5)
        return mipp.prune(Noisy(torch.randn_like, 1e-4), data, budget, progress=False, checkpoint=tmp_path)

    run()
    assert run().resumed
