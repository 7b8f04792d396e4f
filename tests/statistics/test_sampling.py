"""Layers are looked at by as few samples as bring their rows, whatever the batches."""

import numpy as np
import pytest
import torch
from networks import image_batches, image_network

import mipp
from mipp.data.calibration import read
from mipp.statistics.observing import site_statistics
from mipp.statistics.sampling import EVERYTHING, Sampling, rows_of_sample

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}  # rows of a batch are multiplied in float32


def moments(images, size, sampling):
    model = image_network()
    batches = read(mipp.Calibration(list(images.split(size))), None)
    found = site_statistics(model, mipp.inspect(model, images[:2]).graph, batches, sampling)
    return {op: own.inputs[0] for op, own in found.items()}


@pytest.mark.parametrize("size", [1, 5, 16])
def test_samples_left_out_are_those_of_the_whole_data(size):
    images = torch.cat(image_batches(3))
    sampling = Sampling(stride=lambda *_: 4, first=3)
    expected = moments(images, 48, sampling)
    found = moments(images, size, sampling)
    whole = moments(images, 48, EVERYTHING)
    for op, own in expected.items():
        assert found[op].count == own.count
        assert own.count in (whole[op].count * np.array([11, 12, 13]) / 48)
        torch.testing.assert_close(found[op].mean, own.mean, **ROUNDING)
        torch.testing.assert_close(found[op].covariance, own.covariance, **ROUNDING)


def test_the_layer_that_needs_most_samples_decides():
    images = torch.cat(image_batches(3))
    asked = []

    def stride(inputs, rows):
        asked.append((inputs, rows))
        return 1 if len(asked) == 1 else 8

    whole, found = (moments(images, 16, one) for one in (EVERYTHING, Sampling(stride=stride)))
    assert len(asked) == len(whole) > 1
    assert all(found[op].count == own.count for op, own in whole.items())


def test_a_layer_writes_a_row_for_each_position_of_a_sample():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.Flatten(), torch.nn.Linear(36, 2))
    graph = mipp.inspect(model, torch.randn(5, 3, 8, 8)).graph
    assert [rows_of_sample(site, graph) for site in graph.sites] == [9, 1]
