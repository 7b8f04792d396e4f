"""LAMP by hand."""

import pytest
import torch

from mipp.methods.lamp import relative


def test_lamp_divides_by_all_that_is_no_smaller():
    assert relative(torch.tensor([3.0, 1.0, 4.0])).tolist() == pytest.approx([3 / 7, 1 / 8, 1.0])
