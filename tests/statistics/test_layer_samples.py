"""Samples of a layer are those of the paper: collapsed, on the side of the non-linearity that was asked for."""

import numpy as np
import pytest
import torch
from networks import Small
from torch import nn

from mipp.data.calibration import Calibration, read
from mipp.graph.builder import Draft
from mipp.statistics.layer_samples import Reading, adjacent_samples


class InPlace(nn.Module):
    """A residual block that says the same whether it works in place or not."""

    def __init__(self, inplace):
        super().__init__()
        self.inplace = inplace
        self.stem, self.inner, self.outer, self.head = (nn.Linear(*n) for n in ((6, 8), (8, 5), (5, 8), (8, 3)))

    def forward(self, x):
        h = nn.functional.relu(self.stem(x), self.inplace)
        y = self.outer(nn.functional.relu(self.inner(h), self.inplace))
        return self.head(h.add_(y) if self.inplace else h + y)


def images(number=150):
    return torch.randn(number, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def _seeded():
    torch.manual_seed(1)
    return Small().eval()


class TestSamples:
    """The samples that estimators get, against the model's own modules."""

    def samples(self, model, name, **fields):
        data = images(20)
        batches = read(Calibration([data[:12], data[12:]]), None)
        graph = Draft(model, batches[0].call).graph()
        reading = Reading(**{"collapse": "l1", "activation": "post", "positions": 1000, **fields})
        alive = np.ones(graph.num_nodes, bool)
        return adjacent_samples(model, graph, graph.groups[name], batches, alive, reading), data, graph

    @pytest.mark.parametrize(
        ("collapse", "function"),
        [
            ("l1", lambda m: m.abs().sum((2, 3))),
            ("l2", lambda m: m.square().sum((2, 3)).sqrt()),
            ("mean", lambda m: m.mean((2, 3))),
            ("std", lambda m: m.std((2, 3), correction=0)),
        ],
    )
    def test_maps_are_collapsed_and_the_skip_is_always_there(self, collapse, function):
        model = _seeded()
        (found,), data, _ = self.samples(model, "inner", collapse=collapse)
        with torch.no_grad():
            skip = model.bn(model.conv(data)).relu()
            inner = model.inner(skip).relu()
            stream = (skip + model.outer(inner)).relu()
        torch.testing.assert_close(found.x, torch.cat([function(inner), function(skip)], 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.y, function(stream), rtol=1e-4, atol=1e-5)
        assert found.blocks.tolist() == [[0], [1], [2]]
        assert found.images.tolist() == list(range(20))

    def test_before_the_non_linearity_the_target_is_what_the_weight_writes(self):
        model = _seeded()
        (found,), data, _ = self.samples(model, "inner", activation="pre", collapse="mean")
        with torch.no_grad():
            inner = model.inner(model.bn(model.conv(data)).relu()).relu()
            torch.testing.assert_close(found.y, model.outer(inner).mean((2, 3)), rtol=1e-4, atol=1e-5)
        assert found.x.shape == (20, 3)

    def test_channels_are_collapsed_where_a_linear_layer_reads_their_positions(self):
        model = _seeded()
        group = self.samples(model, "inner")[2]
        name = next(n for n, g in group.groups.items() if "fc1" in g.consumers)
        found = self.samples(model, name)[0][-1]
        assert found.x.shape == (20, 4)
        assert found.y.shape == (20, 6)

    def test_without_collapse_every_position_is_a_sample_of_its_image(self):
        model = _seeded()
        (found,), *_ = self.samples(model, "inner", collapse=None, activation="pre")
        assert found.x.shape == (20 * 36, 3 * 9)
        assert found.images.tolist() == np.repeat(np.arange(20), 36).tolist()
        weight = model.outer.weight.flatten(1)
        expected = found.x @ weight.mT + model.outer.bias
        torch.testing.assert_close(found.y, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["pre", "post"])
@pytest.mark.parametrize("collapse", [None, "l1"])
def test_samples_of_a_layer_used_twice_are_pooled(activation, collapse):
    """The first rows are those of a network that uses it once; the second use reads what the first wrote."""
    torch.manual_seed(0)
    a, b, c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
    relu, x = nn.ReLU(), torch.randn(40, 4)
    batches = read(Calibration([x]), None)
    found = []
    for layers in ((a, relu, b, relu, c), (a, relu, b, relu, b, relu, c)):
        model = nn.Sequential(*layers).eval()
        graph = Draft(model, batches[0].call).graph()
        alive, reading = np.ones(graph.num_nodes, bool), Reading(collapse, activation, 64)
        found.append(adjacent_samples(model, graph, graph.groups["0"], batches, alive, reading)[0])
    once, twice = found
    assert (len(once.x), len(twice.x), len(twice.y), len(twice.images)) == (40, 80, 80, 80)
    assert torch.equal(twice.x[:40], once.x)
    assert torch.equal(twice.y[:40], once.y)
    assert torch.equal(twice.x[40:], torch.relu(once.y))


@pytest.mark.parametrize("collapse", [None, "l1"])
@pytest.mark.parametrize("activation", ["pre", "post"])
def test_samples_are_taken_before_the_model_works_on_them_in_place(collapse, activation):
    models = [InPlace(inplace) for inplace in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    batches = read(Calibration([torch.randn(30, 6)]), None)
    seen = []
    for model in models:
        graph = Draft(model, batches[0].call).graph()
        alive = np.ones(graph.num_nodes, bool)
        reading = Reading(collapse, activation, 8)
        seen.append([adjacent_samples(model, graph, g, batches, alive, reading) for g in graph.groups.values()])
    for found, expected in zip(*([part for parts in own for part in parts] for own in seen), strict=True):
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.y, expected.y)
