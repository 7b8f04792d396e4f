"""Whose mistake an error is: that of the code in which it was raised."""

import pytest

from mipp.errors import InternalError, MippError
from mipp.estimators.features import eye
from mipp.runtime.mistakes import admit_mistakes, border


def theirs():
    raise KeyError("of the caller")


def test_what_our_own_code_raises_is_admitted():
    with pytest.raises(InternalError) as caught, admit_mistakes():
        eye(3, None)  # has no type
    assert isinstance(caught.value.__cause__, AttributeError)


@pytest.mark.parametrize("raised", [theirs, lambda: (_ for _ in ()).throw(MippError("refused"))])
def test_errors_of_callers_and_refusals_are_raised_as_they_are(raised):
    with pytest.raises((KeyError, MippError)), admit_mistakes():
        raised()


def test_a_border_stands_for_the_code_it_calls():
    assert border(theirs) is theirs
