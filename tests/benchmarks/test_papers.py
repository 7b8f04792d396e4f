"""The table of methods in the README cites the papers that the cards cite."""

from pathlib import Path

import pytest
from benchmarks.papers import sources_of

from mipp.methods import all as methods

CARDS = "".join(path.read_text() for path in (Path(__file__).parents[2] / "docs/methods").glob("*.md"))


@pytest.mark.parametrize("name", methods())
def test_every_method_has_a_source_that_its_card_cites(name):
    found = sources_of(methods()[name])
    assert bool(found) == (name != "random")
    assert all(f"]({source.url})" in CARDS for source in found)
