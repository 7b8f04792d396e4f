"""A descent goes down, goes back where a check finds it worse, and stops in time."""

import time

import pytest
import torch
from torch import Tensor, nn

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


def descend_by_small_steps(parameter: nn.Parameter, check=lambda: True, go_back=lambda: None) -> Tensor:
    """A hundred steps of at most a thousandth."""

    def loss(_: int) -> Tensor:
        return parameter.float().square().sum()

    Descent([parameter], 1e-3, time.monotonic(), 60, 100, loss, check, go_back).run([iter(range(100))])
    return parameter.detach()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_steps_that_are_too_small_for_16_bits_add_up(dtype):
    """Numbers of bfloat16 near 4 are 1/64 apart: a hundred steps of 0.001 would leave a weight where it was."""
    start = torch.full((3,), 4.0)
    expected = descend_by_small_steps(nn.Parameter(start.clone()))
    assert expected.max() < 3.97
    found = descend_by_small_steps(nn.Parameter(start.to(dtype)))
    torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=0)


def test_after_going_back_steps_start_from_the_best_weights_in_16_bits_too():
    parameter = nn.Parameter(torch.full((3,), 4.0, dtype=torch.bfloat16))

    def go_back() -> None:
        with torch.no_grad():
            parameter.fill_(8)

    assert descend_by_small_steps(parameter, lambda: False, go_back).min() > 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_full_precision_are_stepped_in_place(dtype):
    parameter = nn.Parameter(torch.full((3,), 4.0, dtype=dtype))
    descent = Descent([parameter], 1e-3, 0.0, 60, 100, lambda _: None, lambda: True, lambda: None)
    descent.run([iter(range(1))])
    assert descent._optimiser.param_groups[0]["params"][0] is parameter
