"""Whatever our own code raises is reported as a mistake of ours, and whatever the caller's raises as theirs."""

from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from networks import halve, normal
from tasks import Training
from torch import nn

import mipp
from mipp.errors import InternalError

OURS = r"mipp failed in its own code .KeyError: 'planted'.*Please report"
LABELLED = [(normal(8, 6, seed=seed), torch.arange(8) % 3) for seed in range(3)]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 3))


def prune_with(method=None, **options):
    return lambda _: halve(network(), LABELLED, method=method, **options)


def distill(by):
    return prune_with(recover=mipp.Distillation(epochs=2, by=by))


def rank(name):
    return prune_with(mipp.methods.all()[name](), loss_fn=F.cross_entropy)


def train(name):
    return prune_with(mipp.methods.all()[name](), loss_fn=F.cross_entropy, train=Training(LABELLED[0]))


def export(folder):
    return mipp.export.export(network(), normal(2, 6), folder / "model.pt2")


def save_and_load(folder):
    prune_with()(folder).save(folder / "saved")
    return mipp.load(folder / "saved", network)


PLACES = {
    "mipp.graph.trace._Recorder.index_of": prune_with(),
    "mipp.graph.trace._functional": prune_with(),
    "mipp.graph.axes.Atoms.unite": prune_with(),
    "mipp.statistics.observing._Watch._find": prune_with(),
    "mipp.statistics.observing.Moments.update": prune_with(),
    "mipp.surgery.masked._over_kept": prune_with(),
    "mipp.surgery.cut._cut": prune_with(),
    "mipp.refit.least_squares.best_ridge": prune_with(),
    "mipp.refit.distillation.output_loss": distill("network"),
    "mipp.refit.by_regions.align": distill("blocks"),
    "mipp.refit.descent.Descent._learn_at": distill("network"),
    "mipp.methods.common.gradients.differentiable_recurrence": rank("taylor"),
    "mipp.methods.common.gradients.map_tensors": rank("grasp"),
    "mipp.methods.common.gradients._mean": rank("snip"),
    "mipp.methods.common.training._check": train("imp"),
    "mipp.methods.oto._Shrinking._penalise": train("oto"),
    "mipp.export.formats._export": export,
    "mipp.storage.folder.fill": save_and_load,
    "mipp.modules.copies._find_tied_copies": lambda _: mipp.inspect(network(), normal(2, 6)),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_mistake_of_our_own_is_reported_as_ours(place, monkeypatch, tmp_path):
    monkeypatch.setattr(place, Mock(side_effect=KeyError("planted")))
    with pytest.raises(InternalError, match=OURS):
        PLACES[place](tmp_path)


def fail(*_, **__):
    raise RuntimeError("theirs")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"method": mipp.methods.all()["taylor"](), "loss_fn": fail}, mipp.CalibrationError),
        ({"method": mipp.methods.all()["taylor"](), "loss_fn": F.conv2d}, mipp.CalibrationError),
        ({"method": mipp.methods.all()["imp"](), "train": fail}, mipp.UnsupportedModelError),
        ({"evaluate": fail}, RuntimeError),
        ({"evaluate": torch.numel}, TypeError),
    ],
)
def test_a_mistake_of_the_callers_is_not_reported_as_ours(options, kind):
    with pytest.raises(kind):
        halve(network(), LABELLED, **options)


@pytest.mark.parametrize("batches", [map(fail, [1]), torch.utils.data.DataLoader([torch.ones(2), torch.ones(3)], 2)])
def test_data_that_raise_are_not_reported_as_ours(batches):
    with pytest.raises(RuntimeError):
        halve(network(), batches)
