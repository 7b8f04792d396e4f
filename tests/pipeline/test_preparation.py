"""Preparation serves all budgets and is done once; arguments that exclude each other are refused before."""

import pytest
import torch
from networks import image_batches, image_network

import mipp
from mipp.errors import MippError
from mipp.methods import IMP, MIPP
from mipp.pipeline.options import Options
from mipp.pipeline.preparation import check_request, prepare
from mipp.runtime.progress import Bars


def prepared(method=None, **options):
    model, data = image_network(), mipp.Calibration(image_batches(1))
    return prepare(model, data, [mipp.Budget(nodes=0.5)], method or MIPP(), Options(**options), Bars(enabled=False))


def test_the_dense_model_is_measured_and_phases_are_timed():
    found = prepared()
    assert found.before.nodes == sum(group.size for group in found.task.graph.groups.values())
    assert set(found.seconds) == {"read", "graph", "report"}
    assert found.refit == mipp.Refit()


def test_weights_that_a_method_makes_itself_are_not_refitted_unless_asked():
    assert prepared(IMP(), train=lambda model, **_: None).refit is None
    assert prepared(IMP(), train=lambda model, **_: None, compensate=mipp.Refit()).refit is not None


def test_sharded_data_and_a_distillation_exclude_each_other():
    data = mipp.Calibration([torch.randn(2, 3)], sharded=True)
    with pytest.raises(MippError, match="Leave one of the two out"):
        check_request(data, [mipp.Budget(nodes=1)], MIPP(), Options(recover="distill"))
