"""Settings that mean nothing are refused when they are made."""

import pytest

from mipp.errors import MippError
from mipp.refit.settings import Distillation, Refit


@pytest.mark.parametrize("wrong", [{"ridge": 0}, {"ridge": -1.0}, {"positions": 0}, {"variations": -1}])
def test_a_refit_needs_positive_settings(wrong):
    with pytest.raises(MippError, match=rf"Refit\({next(iter(wrong))}=.*expected (a positive|0 or|1 or)"):
        Refit(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}, {"by": "layers"}]
)
def test_a_distillation_needs_positive_settings_and_a_known_way(wrong):
    with pytest.raises(MippError, match=next(iter(wrong))):
        Distillation(**wrong)
