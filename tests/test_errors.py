"""Errors quote what was given, and no more of it than can be read."""

import pytest

from mipp import errors
from mipp.errors import InternalError, MippError, amount, clip, few, quote


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("value", ["x" * 10**6, [1] * 10**6, 10**5000, Mute()], ids=lambda value: type(value).__name__)
def test_a_quote_is_short_whatever_was_given(value):
    assert 0 < len(quote(value)) < 250


def test_short_texts_are_quoted_as_they_are():
    assert quote("digits") == "'digits'"
    assert clip("digits") == "digits"


@pytest.mark.parametrize(
    ("value", "text"), [(2378370.0, "2,378,370"), (999.5, "999.5"), (0.001, "0.001"), (1, "1"), (1234.6, "1,235")]
)
def test_an_amount_is_written_out(value, text):
    assert amount(value) == text


def test_a_few_names_stand_for_all():
    assert few("abc") == "a, b, c"
    assert few("abcde") == "a, b, c and 2 more"


def test_all_errors_on_purpose_have_one_base_and_mistakes_of_ours_another():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind for kind in kinds if not issubclass(kind, MippError)} == {InternalError}
