"""Two runs are the same where nothing differs that their results depend on; what differs is named."""

import json
from dataclasses import asdict

import torch

from mipp.runtime.typed import as_type
from mipp.storage.identity import Identity, describe, summary

HASHES = {"model": {"weights": "a", "layers": "b"}, "calibration data": {"calibration data": "c"}}


def test_an_identity_is_the_same_after_it_was_written_and_read():
    own = Identity(HASHES, ("op",), ((1.0, 2.0),), ((0.5,),), tolerance=1e-6)
    again = as_type(Identity, json.loads(json.dumps(asdict(own))))
    assert again == own
    assert own.differences(again) == {}


def test_what_differs_is_named():
    other = Identity({**HASHES, "model": {"weights": "z", "layers": "b"}})
    found = Identity(HASHES).differences(other)
    assert found == {"model": ["weights"]}
    assert "model: weights" in describe(found)


def test_outputs_may_differ_by_rounding_and_programs_may_not():
    own, near, far = (Identity(HASHES, ("relu(%0)",), ((1.0, y),), tolerance=1e-5) for y in (2.0, 2.0 + 1e-6, 2.1))
    assert own.differences(near) == {}
    assert "outputs" in own.differences(far)["model"][0]
    assert "op 0" in own.differences(Identity(HASHES, ("gelu(%0)",), ((1.0, 2.0),)))["model"][0]


def test_every_entry_has_a_share_in_the_summary():
    x = torch.arange(2000.0)
    (before,) = summary([x])
    for place in (0, 999, 1999):
        other = x.clone()
        other[place] += 1000
        assert summary([other]) != [before]
    assert summary([torch.tensor(float("nan"))]) == ((0.0, 0.0),)
