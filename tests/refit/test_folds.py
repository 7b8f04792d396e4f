"""Folds take turns by sample, and their rows are all rows, in order, however many each sample has."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mipp.refit.folds import FOLDS, by_fold, folds_of


@given(samples=st.integers(0, 9), per_sample=st.integers(1, 5), first=st.integers(0, 3), left_out=st.integers(0, 3))
def test_rows_of_a_fold_are_those_that_its_number_stands_at(samples, per_sample, first, left_out):
    folds = folds_of(samples * per_sample, samples, first)[left_out:]
    rows = torch.arange(2 * len(folds) * 3).view(2, len(folds), 3)
    for number, choose in enumerate(by_fold(folds, rows.device)):
        assert torch.equal(choose(rows, 1).flatten(1, 2), rows[:, folds == number])
        assert torch.equal(choose(folds, 0).flatten(), folds[folds == number])


def test_samples_with_as_many_rows_are_not_copied():
    rows = torch.zeros(1, 24, 2)
    for choose in by_fold(folds_of(24, 8, 0), rows.device):
        assert choose(rows, 1).untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_fold_of_a_sample_does_not_depend_on_its_batch(size):
    whole = folds_of(16, 8, 0)
    parts = [folds_of(2 * min(size, 8 - first), min(size, 8 - first), first) for first in range(0, 8, size)]
    assert torch.equal(torch.cat(parts), whole)
    assert set(whole.tolist()) == set(range(FOLDS))
