"""Statistics of layers are those of what the layers read, whatever the batches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import image_batches, image_network
from torch import nn

import mipp
from mipp.data.calibration import read
from mipp.errors import CalibrationError
from mipp.runtime.record import Notes
from mipp.statistics.layer_samples import Reading, adjacent_samples
from mipp.statistics.observing import rotate, site_statistics

IMAGES = torch.cat(image_batches(3))


def observed(batch_size: int):
    model = image_network().eval()
    batches = read(mipp.Calibration(IMAGES.split(batch_size)), None)
    return model, list(site_statistics(model, mipp.inspect(model, IMAGES).graph, batches).values())


def test_moments_are_those_of_the_patches_that_a_convolution_reads():
    model, found = observed(16)
    with torch.no_grad():
        patches = F.unfold(model[:4](IMAGES), 3).transpose(1, 2).flatten(0, 1)
    (moments,) = next(own for own in found if own.weight.shape == model[4].weight.shape).inputs
    assert moments.count == len(patches)
    assert torch.allclose(moments.covariance, patches.double().T.cov(correction=0), rtol=1e-4, atol=1e-6)


def test_batches_make_no_difference():
    (_, one), (_, other) = observed(48), observed(10)
    for a, b in zip(one, other, strict=True):
        assert a.inputs[0].count == b.inputs[0].count
        assert torch.allclose(a.inputs[0].covariance, b.inputs[0].covariance, rtol=1e-5, atol=1e-7)


def test_what_is_no_number_is_put_down_to_its_batch():
    model, data = image_network().eval(), image_batches(2)
    model[0].weight.data.mul_(100)
    graph = mipp.inspect(model, data[0]).graph
    batches = read(mipp.Calibration(data), None)
    batches[1].call.args[0][3] = 1e38  # finite, and no more so behind the first layer
    with pytest.raises(CalibrationError, match="batch 1 "):
        site_statistics(model, graph, batches)


def test_a_basis_of_the_kernel_keeps_lengths():
    basis = torch.linalg.qr(torch.randn(9, 9)).Q
    features = torch.randn(5, 18)
    assert torch.allclose(rotate(features, basis).norm(dim=1), features.norm(dim=1), rtol=1e-5)
    assert rotate(features, None) is features


class OtherActivation(nn.Module):
    """Puts another function behind a layer, for some inputs."""

    def __init__(self, other_way) -> None:
        super().__init__()
        self.other_way = other_way
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        h = self.b(torch.tanh(self.a(x)))
        return self.c(torch.sigmoid(h) if self.other_way(x) else torch.tanh(h))


@pytest.mark.parametrize("other_way", [lambda x: bool(x.mean() > 0), lambda x: len(x) % 2 == 0])
def test_batches_in_which_what_is_needed_behind_a_layer_changes_are_left_out_and_counted(other_way):
    torch.manual_seed(1)
    model, method = OtherActivation(other_way), mipp.methods.MIPP(estimator="surrogate", activation="post")
    data = [torch.randn(15 + n % 2, 6) + 0.3 * (-1) ** n for n in range(8)]
    data.sort(key=other_way)
    alike = [x for x in data if not other_way(x)]
    assert len(alike) == 4
    with pytest.warns(UserWarning, match="Of 8 calibration batches 4 were left out of the statistics"):
        found = mipp.prune(model, data, mipp.Budget(nodes=0.5), method, compensate=None, progress=False)
    assert "4 were left out of the statistics" in found.report.warnings[0]
    graph = mipp.inspect(model, data[0]).graph
    reading, everything = Reading(None, "post", 16), np.ones(graph.num_nodes, bool)
    (one,), (other,) = (
        adjacent_samples(
            model, graph, graph.groups["a"], read(mipp.Calibration(d), None), everything, reading, 0.0, Notes()
        )
        for d in (data, alike)
    )
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.y, other.y)
