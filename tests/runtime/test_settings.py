"""Settings are checked against the types of their fields."""

from dataclasses import dataclass

import pytest

import mipp
from mipp.errors import MippError
from mipp.runtime.settings import check_settings, required_parameters


def test_settings_of_their_types_pass_and_a_wrong_field_is_named():
    check_settings(mipp.Distillation())
    settings = mipp.Distillation()
    object.__setattr__(settings, "epochs", "many")
    with pytest.raises(MippError, match="epochs"):
        check_settings(settings)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [("(0, 1)", [0.5], [0, 1]), ("[0, 1)", [0], [1, -1]), ("(0, 1]", [1], [0]), ("(0, inf]", [float("inf")], [0, -1])],
)
def test_a_number_outside_of_its_interval_is_named_and_none_has_none(interval, inside, outside):
    @dataclass
    class Settings:
        share: float | None

    for share in [*inside, None]:
        check_settings(Settings(share), share=interval)
    for share in outside:
        with pytest.raises(MippError, match=rf"Settings\(share={share}\): expected (a number in|a positive number)"):
            check_settings(Settings(share), share=interval)


def test_parameters_without_a_default_are_required():
    assert required_parameters(lambda a, *more, b=1, **others: None) == ["a"]
    assert required_parameters(min) == []
