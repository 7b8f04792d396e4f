"""A block in a state of torch of its own: the caller's settings are as they were afterwards."""

import pytest
import torch

from mipp.pipeline.isolation import isolate


def test_inside_there_are_gradients_and_full_precision_whatever_the_caller_set():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with isolate(0):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")


def test_the_seed_decides_what_is_drawn_and_the_caller_draws_on_as_before():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    drawn = []
    for _ in range(2):
        with isolate(7):
            drawn.append(torch.rand(2))
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(2), expected)


def test_an_error_puts_the_state_back_too():
    with pytest.raises(KeyError), torch.no_grad(), isolate(0):
        raise KeyError
    assert torch.is_grad_enabled()
