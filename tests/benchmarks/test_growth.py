"""The exponent of growth is the slope over what is fixed, and is not told where noise hides it."""

import pytest
from benchmarks.growth import exponent


def test_the_exponent_is_that_of_what_grows():
    sizes = [1, 4, 8, 16]
    assert exponent(sizes, [5, *(5 + size**2 for size in sizes[1:])]) == pytest.approx(2)


def test_what_does_not_grow_beyond_what_is_fixed_has_none():
    with pytest.raises(ValueError, match="not all larger than the fixed"):
        exponent([1, 2, 4], [0.3, 0.2, 0.9])
