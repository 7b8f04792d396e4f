"""`mipp select`: the inputs that inform, as JSON and as a file; nothing is overwritten."""

import json

from command_line import refusal, result_of


def test_as_many_inputs_are_selected_as_asked_and_written(tmp_path):
    options = ("select", "nets:Net", "--data", "data.npy", "--num-features", "2", "--out", "kept.json")
    found = result_of(*options)
    assert len(found["kept"]) == 2
    assert json.loads((tmp_path / "kept.json").read_text()) == found
    assert "kept.json exists already" in refusal(*options)


def test_a_picture_needs_a_known_suffix():
    told = refusal("select", "nets:Net", "--data", "data.npy", "--num-features", "2", "--picture", "kept.gif")
    assert "expected a name in .png or .svg" in told
