"""The example that a model is traced on: two samples, or a batch as a whole."""

import torch

from mipp.data.calibration import Batch
from mipp.graph.call import Call
from mipp.pipeline.stages import example


def test_two_samples_are_enough_where_a_batch_can_be_cut():
    call = Call((torch.randn(5, 3),))
    assert example([Batch(call, 5)]).samples == 2
    assert example([Batch(call, 5, whole=True)]) is call
