"""Batches that were left out are counted and named."""

import pytest
import torch

import mipp
from mipp.data.calibration import Calibration, name_batch, read
from mipp.graph.program import StrayedError
from mipp.runtime.record import WARNING, Notes
from mipp.statistics.followed import Followed, tell_left_out


def follow(strays: list[bool]) -> Followed:
    followed = Followed()
    for batch, lost in zip(read(Calibration([torch.zeros(2, 3)] * len(strays)), None), strays, strict=True):
        with followed.attempt(), name_batch(batch):
            if lost:
                raise StrayedError("Another path.")
    return followed


@pytest.mark.parametrize(("strays", "words"), [([True, False], "1 was left out"), ([True, False, True], "2 were left")])
def test_how_many_and_why_is_a_warning(strays, words):
    notes = Notes()
    follow(strays).tell(notes)
    (note,) = notes
    assert note.startswith(f"{WARNING}Of {len(strays)} calibration batches {words}")
    assert note.endswith(": Another path.")


def test_where_all_stray_or_all_are_needed_the_first_reason_is_raised():
    for followed, notes in ((follow([True, True]), Notes()), (follow([True, False]), None)):
        with pytest.raises(mipp.UnsupportedModelError, match="Another path"):
            followed.tell(notes)
    follow([False]).tell(None)


def test_a_sentence_ends_once():
    assert tell_left_out(3, [ValueError("no reason")], "the refit").endswith("the refit: no reason.")
