"""Settings are checked against the types of their fields."""

import pytest

import mipp
from mipp.errors import MippError
from mipp.runtime.settings import check_settings


def test_settings_of_their_types_pass_and_a_wrong_field_is_named():
    check_settings(mipp.Distillation())
    settings = mipp.Distillation()
    object.__setattr__(settings, "epochs", "many")
    with pytest.raises(MippError, match="epochs"):
        check_settings(settings)
