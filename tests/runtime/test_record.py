"""Notes are each said once; results are computed once, and their notes said to each who asks."""

from mipp.runtime.record import Notes, Results, warnings_of


def test_notes_keep_their_order_and_are_said_once():
    notes = Notes(["first"])
    notes.extend(["second", "first"])
    notes.append("second")
    assert list(notes) == ["first", "second"]
    assert len(notes) == 2


def test_warnings_are_told_from_other_notes():
    notes = Notes(["said"])
    notes.warn("beware")
    assert list(notes) == ["said", "Warning: beware"]
    assert warnings_of(notes) == ("beware",)


def test_notes_of_a_block_are_apart():
    notes = Notes(["before"])
    with notes.apart() as own:
        notes.append("inside")
    assert list(own) == ["inside"]
    assert list(notes) == ["before"]


def test_a_result_is_computed_once_and_its_notes_are_said_each_time():
    results, calls = Results(), []
    for _ in range(2):
        notes = Notes()
        assert results.once("key", lambda n=notes: (calls.append(1), n.append("said"), 3)[-1], notes) == 3
        assert list(notes) == ["said"]
    assert calls == [1]
    results.forget()
    results.once("key", lambda: calls.append(1), Notes())
    assert calls == [1, 1]
