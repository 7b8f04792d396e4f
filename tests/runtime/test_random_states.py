"""Random states of our own leave the caller's as they were."""

import random

import numpy as np
import torch

from mipp.runtime.random_states import own_random_states


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_the_caller_draws_on_as_if_nothing_had_been():
    with own_random_states():
        expected = draw()
    with own_random_states(5):
        draw()
    assert draw() == expected


def test_a_seed_decides_what_is_drawn():
    found = []
    for _ in range(2):
        with own_random_states(2**40 + 1):
            found.append(draw())
    assert found[0] == found[1]
