"""Functions are told apart by what they hold."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mipp.storage.fingerprint import hash_function

pytestmark = pytest.mark.usefixtures("quick")


class Focal:
    def __init__(self, gamma: float):
        self.gamma, self.seen = gamma, []

    def __call__(self, output, labels):
        self.seen.append(len(output))
        return F.cross_entropy(output, labels) * self.gamma

    def fit(self, model, **options):
        self.seen.append(model)


@dataclasses.dataclass
class Settings:
    rate: float


def closing_over(value):
    return lambda: value


OTHERS = [
    (Focal(1.0), Focal(2.0)),
    (Focal(1.0).fit, Focal(2.0).fit),
    (closing_over(np.zeros(2)), closing_over(np.ones(2))),
    (closing_over(np.float32(1)), closing_over(np.float32(2))),
    (closing_over(torch.zeros(2)), closing_over(torch.ones(2))),
    (closing_over((1, 2)), closing_over((1, 3))),
    (closing_over(Settings(0.1)), closing_over(Settings(0.2))),
    (closing_over(torch.float16), closing_over(torch.bfloat16)),
    (closing_over(frozenset("ab")), closing_over(frozenset("ac"))),
    (partial(sum, start=1), partial(sum, start=2)),
    (F.cross_entropy, F.nll_loss),
    (None, F.nll_loss),
]


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_functions_are_told_apart_by_what_they_hold(one, other):
    assert hash_function(one) == hash_function(copy.deepcopy(one))
    assert hash_function(one) != hash_function(other)


def test_what_grows_as_a_function_runs_is_no_part_of_it():
    losses: list[float] = []

    def train(model):
        losses.append(1.0)

    before, loss = hash_function(train), Focal(1.0)
    called = hash_function(loss)
    train(None)
    loss(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
    assert hash_function(train) == before
    assert hash_function(loss) == called


def test_odd_functions_can_be_described():
    def outer(x):
        return outer(x), late

    assert hash_function(outer) == hash_function(outer)  # it holds itself, and a name that is not set yet
    late = torch.zeros(3, device="meta")
    assert hash_function(outer) != hash_function(lambda x: x)
    shared: tuple = ()
    for _ in range(60):
        shared = (shared, shared)
    assert hash_function(closing_over(shared))
