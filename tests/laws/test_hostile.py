"""Hostile input: damaged files, data and command lines are used or refused, and never anything else.

`make hostile` tries 100,000 cases; these are the first of each kind.
"""

import pytest
from benchmarks.hostile import SHARES, bench, outcomes

CASES = {"plan": 300, "report": 200, "weights": 200, "journal": 200, "command": 24, "image": 150, "table": 20,
         "state": 200, "result": 200}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    with bench() as found:
        yield found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SHARES)
def test_hostile_input_is_used_or_refused(kind, made):
    shown = []
    found = outcomes(kind, CASES[kind], 0, made, shown.append)
    assert not found["broken"], "\n".join(shown)
    assert found["refused"]
