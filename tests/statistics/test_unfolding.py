"""The inputs of a convolution times its weight are its outputs."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mipp.graph.call import Call
from mipp.graph.nodes import Site
from mipp.graph.trace import trace
from mipp.statistics.observing import observe
from mipp.statistics.unfolding import channels_last, inputs_of


@st.composite
def transposed(draw):
    """A transposed convolution and its input."""
    kernel, stride, dilation = (draw(st.integers(1, 3)) for _ in range(3))
    options = {
        "stride": stride,
        "dilation": dilation,
        "padding": draw(st.integers(0, dilation * (kernel - 1) // 2)),
        "output_padding": draw(st.integers(0, max(stride, dilation) - 1)),
        "groups": draw(st.sampled_from([1, 2])),
        "bias": False,
    }
    layer = draw(st.sampled_from([nn.ConvTranspose1d, nn.ConvTranspose2d]))(4, 6, kernel, **options).double()
    return layer, torch.randn(2, 4, *[draw(st.integers(3, 5))] * (layer.weight.ndim - 2), dtype=torch.float64)


_LIMITS = {"limit": st.sampled_from([None, 3]), "first": st.sampled_from([None, 0, 5])}


@given(case=transposed(), **_LIMITS)
def test_what_a_transposed_convolution_reads_times_its_weight_is_what_it_writes(case, limit, first):
    layer, x = case
    seen = {}
    program = trace(layer.eval(), Call((x,)))
    observe(layer, Call((x,)), program, [0], lambda _, arguments, result: seen.update(arguments, result=result))
    site = Site(0, "weight", "", np.zeros(4 // layer.groups, int), np.zeros(6, int), layer.groups, 0)
    rows, weight = inputs_of(site, seen, limit, first), seen["weight"].flatten(1).unflatten(0, (layer.groups, -1))
    written = torch.cat(list(rows @ weight.transpose(-2, -1)), 1)
    torch.testing.assert_close(written, channels_last(seen["result"], 1, limit, first))


def test_positions_taken_in_inference_mode_serve_a_pass_with_gradients():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.inference_mode():
        expected = channels_last(x, 1, 4)
    rows = channels_last(x, 1, 4)
    rows.sum().backward()
    torch.testing.assert_close(rows, expected)
    assert x.grad is not None
    assert x.grad.sum() == rows.numel()


@given(total=st.integers(2, 30), limit=st.integers(1, 30), first=st.integers(0, 50), dim=st.sampled_from([-1, 1]))
def test_positions_are_taken_in_turn(total, limit, first, dim):
    samples = 2 * total
    places = torch.arange(total, dtype=torch.float32).expand(samples, total).unsqueeze(dim)  # a sequence, or a map
    taken = channels_last(places, dim, limit, first).view(samples, -1).long()
    assert all(len(set(own)) == min(limit, total) for own in taken.tolist())
    assert len(set(torch.bincount(taken.flatten(), minlength=total).tolist())) == 1  # each as often as any other
    assert torch.equal(channels_last(places[1:], dim, limit, first + 1).view(samples - 1, -1).long(), taken[1:])


def test_without_a_number_the_same_positions_are_taken_of_all_samples():
    places = torch.arange(20.0).expand(6, 20)[..., None]
    assert (channels_last(places, -1, 5).view(6, 5) == channels_last(places, -1, 5)[:5].view(1, 5)).all()


@st.composite
def convolutions(draw):
    """A convolution and its input, channels first or last in memory."""
    dims, kernel, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    stride = draw(st.integers(1, 3))
    padding = draw(st.sampled_from([0, 1, 2, "valid", *(["same"] if stride == 1 and kernel != 2 else [])]))
    make = (nn.Conv1d, nn.Conv2d)[dims - 1]
    layer = make(4, 6, kernel, stride, padding, dilation, draw(st.sampled_from([1, 2])), bias=False).double()
    x = torch.randn(2, 4, *[draw(st.integers(5, 7))] * dims, dtype=torch.float64)
    return layer, x.transpose(1, -1).contiguous().transpose(1, -1) if draw(st.booleans()) else x


@given(case=convolutions(), **_LIMITS)
def test_what_a_convolution_reads_times_its_weight_is_what_it_writes(case, limit, first):
    layer, x = case
    before, seen = x.clone(), {}
    program = trace(layer.eval(), Call((x,)))
    observe(layer, Call((x,)), program, [0], lambda _, arguments, result: seen.update(arguments, result=result))
    site = Site(0, "weight", "", np.zeros(4, int), np.zeros(6, int), layer.groups, 1)
    rows, weight = inputs_of(site, seen, limit, first), seen["weight"].flatten(1).unflatten(0, (layer.groups, -1))
    written = torch.cat(list(rows @ weight.transpose(-2, -1)), 1)
    torch.testing.assert_close(written, channels_last(seen["result"], 1, limit, first))
    assert torch.equal(x, before)
