"""A descent goes down, goes back where a check finds it worse, and stops in time."""

import time

import torch
from torch import nn

from mipp.refit.descent import Descent


def descend(seconds: float = 60.0, check=lambda: True, go_back=lambda: None) -> tuple[nn.Parameter, list[int]]:
    parameter, steps = nn.Parameter(torch.full((3,), 4.0)), []

    def loss(number: int):
        steps.append(number)
        return parameter.square().sum()

    descent = Descent([parameter], 0.1, time.monotonic(), seconds, 100, loss, check, go_back)
    descent.run(iter(range(20)) for _ in range(5))
    return parameter, steps


def test_a_loss_is_made_small_in_the_steps_there_are():
    parameter, steps = descend()
    assert len(steps) == 100
    assert parameter.abs().max() < 1


def test_it_goes_back_where_a_check_finds_it_worse():
    back = []
    descend(check=lambda: False, go_back=lambda: back.append(1))
    assert len(back) == 4  # at each check but the last, after which nothing follows


def test_time_that_is_over_ends_it_after_a_last_check():
    checks = []
    _, steps = descend(seconds=1e-9, check=lambda: checks.append(1) or True)
    assert steps == []
    assert checks == [1]
