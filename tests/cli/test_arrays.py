"""Arrays in files: their type, their labels, and the part that is held out."""

import numpy as np
import pytest
import torch
from torch import nn

from mipp.cli.arrays import Arrays, open_arrays
from mipp.cli.sources import measure_accuracy
from mipp.errors import CalibrationError


def test_a_fifth_is_held_out_and_labels_stay_with_their_inputs():
    inputs = torch.arange(20.0)
    held, own = Arrays(inputs, inputs.long()).split(seed=0)
    assert (len(held.inputs), len(own.inputs)) == (4, 16)
    assert sorted([*held.inputs.tolist(), *own.inputs.tolist()]) == inputs.tolist()
    assert all(torch.equal(part.inputs.long(), part.labels) for part in (held, own))


def test_accuracy_is_the_percentage_that_is_right():
    arrays = Arrays(torch.eye(3), torch.tensor([0, 1, 0]))
    assert measure_accuracy(nn.Identity(), arrays.batches()) == {"accuracy": pytest.approx(200 / 3)}


def test_floats_have_the_type_of_the_model_and_labels_one_entry_a_sample(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    np.save(tmp_path / "y.npy", np.zeros(3, dtype=np.int64))
    assert open_arrays(str(tmp_path / "x.npy"), None, nn.Linear(2, 2)).inputs.dtype == torch.float32
    with pytest.raises(CalibrationError, match=r"labels of shape \[3\]; expected one for each of the 4"):
        open_arrays(str(tmp_path / "x.npy"), tmp_path / "y.npy", nn.Linear(2, 2))
