"""Rows of inputs tell what a layer writes, and its errors what the ReLU behind it reads."""

import numpy as np
import pytest
import torch
from torch import nn

import mipp
from mipp.graph.call import Call
from mipp.graph.downstream import Downstream
from mipp.graph.layers import as_layer, bias_of
from mipp.graph.nodes import Site
from mipp.graph.trace import trace
from mipp.refit.rows import (
    errors_before,
    errors_behind,
    in_rows,
    is_scarce,
    make_outputs,
    rows_of_sample,
)
from mipp.statistics.unfolding import channels_last, patches_of

LAYERS = {
    "linear": (nn.Linear(6, 5), (7, 3, 6), 1),
    "without a bias": (nn.Linear(6, 5, bias=False), (7, 6), 1),
    "convolution": (nn.Conv2d(6, 4, 3, stride=2, padding=1), (5, 6, 7, 7), 1),
    "in groups": (nn.Conv1d(6, 4, 3, dilation=2, groups=2), (5, 6, 9), 2),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (5, 6, 4, 4), 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_makes_of_its_rows_what_it_writes_there(name):
    layer, shape, groups = LAYERS[name]
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        (op,) = trace(layer, Call((x,))).ops
        transposed = name == "transposed"
        site = Site(
            op.index, "weight", "", np.zeros(6 // groups, int), np.zeros(4, int), groups, 0 if transposed else 1
        )
        weight, written = site.swap_axes(layer.weight), layer(x)
        arguments = {**as_layer(op.name, op.arguments), "input": x, "weight": weight}
        made = make_outputs(patches_of(site, arguments, 2), in_rows(weight, groups), layer.bias)
        assert (bias_of(op) is None) == (layer.bias is None)
        torch.testing.assert_close(made, channels_last(written, -1 if "conv" not in op.name else 1, 2))


def test_what_a_relu_reads_is_off_by_the_errors_of_output_and_stream():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4).double().eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    out, stream = (tuple(torch.randn(2, 9, 4, dtype=torch.float64)) for _ in range(2))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        wanted, found = (norm(o) + s for o, s in zip(out, stream, strict=True))
        error = errors_before([out, stream], scale)
        torch.testing.assert_close(error, wanted - found)
        torch.testing.assert_close(errors_behind([out, stream], Downstream(norm=1), 1 / scale) * scale, error)


@pytest.mark.parametrize(("samples", "expected"), [(4, True), (40, False)])
def test_a_convolution_is_scarce_by_the_rows_of_its_samples(samples, expected):
    model = nn.Conv2d(3, 8, 3)
    graph = mipp.inspect(nn.Sequential(model, nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)), torch.randn(2, 3, 4, 4)).graph
    (site,) = [site for site in graph.sites if site.weight == "0.weight"]
    assert is_scarce(site, model.weight, graph, samples) == expected
    assert not is_scarce(site, model.weight.flatten(1), graph, samples)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [(nn.Linear(6, 5), (2, 6), 1), (nn.Linear(6, 5), (2, 7, 6), 7), (nn.Conv2d(6, 4, 3), (2, 6, 7, 8), 30)],
)
def test_rows_of_a_sample_are_the_positions_that_a_layer_writes(layer, shape, expected):
    graph = mipp.inspect(nn.Sequential(layer, nn.ReLU()).eval(), torch.randn(shape)).graph
    assert rows_of_sample(graph.sites[0], graph) == expected
