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
from mipp.statistics.moments import Moments
from mipp.statistics.observing import rotate, site_statistics
from mipp.statistics.sampling import Sampling

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


class Stream(nn.Module):
    """A stream of unequal channels, to which a layer writes, and what reads it."""

    def __init__(self, reads: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.reads, self.head = nn.Linear(6, 8), nn.Linear(8, 6), reads, nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.reads(x + self.down(F.relu(self.up(x)))))


@pytest.mark.parametrize(
    ("reads", "alike"), [(nn.LayerNorm(6), True), (nn.RMSNorm(6), True), (nn.BatchNorm1d(6), False), (nn.ReLU(), False)]
)
def test_channels_of_a_stream_have_one_noise_floor_where_a_norm_divides_them_all_by_the_same(reads, alike):
    model = Stream(reads).eval()
    data = [torch.randn(64, 6) * torch.tensor([100.0, 1, 1, 1, 1, 1])]
    graph = mipp.inspect(model, data[0]).graph
    found = site_statistics(model, graph, read(mipp.Calibration(data), None))
    (floor,) = (own.floor for own in found.values() if own.weight is not None and own.floor is not None)
    with torch.no_grad():
        stream = data[0] + model.down(F.relu(model.up(data[0])))
    own = stream.double().var(0, correction=0)
    expected = own.mean().expand_as(own) if alike else own
    torch.testing.assert_close(floor.double(), expected, rtol=1e-4, atol=1e-6)


class Tokens(nn.Module):
    """Two layers between tokens, of which the first of a sequence is far from the others."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.down(F.relu(self.up(x)))


def read_of_tokens(batch_size: int) -> Moments:
    torch.manual_seed(0)
    model, tokens = Tokens().eval(), torch.randn(12, 40, 5)
    tokens[:, 0] *= 1000
    batches = read(mipp.Calibration(list(tokens.split(batch_size))), None)
    (found,) = site_statistics(model, mipp.inspect(model, tokens).graph, batches, Sampling(lambda *_: 10)).values()
    return found.inputs[0]


@pytest.mark.parametrize("batch_size", [12, 5, 1])
def test_of_sequences_all_positions_are_seen_whatever_the_batches(batch_size):
    found = read_of_tokens(batch_size)
    assert found.count == 12 * 10
    assert found.raw.diagonal().max() > 1000
    torch.testing.assert_close(found.raw, read_of_tokens(12).raw, rtol=1e-5, atol=1e-3)
