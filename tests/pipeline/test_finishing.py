"""From a plan to the result: where refitting cannot be done, the model stays as cut, and a warning says so."""

import pytest
import torch
from networks import image_batches, image_network

import mipp
from mipp.errors import UnsupportedModelError


def test_a_refit_that_cannot_be_done_leaves_the_cut_model_and_warns(monkeypatch):
    def fail(*_):
        raise UnsupportedModelError("for a test")

    monkeypatch.setattr("mipp.pipeline.finishing.refit", fail)
    with pytest.warns(UserWarning, match="Nothing was refitted: for a test"):
        result = mipp.prune(image_network(), image_batches(1), mipp.Budget(nodes=0.5), progress=False)
    cut = mipp.apply(result.plan, image_network())
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), cut.parameters(), strict=True))


def test_samples_fewer_than_allowed_are_told():
    data = mipp.Calibration(image_batches(1, samples=6), max_samples=100)
    result = mipp.prune(image_network(), data, mipp.Budget(nodes=0.5), compensate=False, progress=False)
    assert "Calibrated on 6 samples, all there were; max_samples allows 100." in result.report.notes
    assert repr(result) == str(result.report)
