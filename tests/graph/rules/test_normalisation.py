"""A norm over channels belongs to the layer that it normalises."""

from cases import inspected, named


def slices_of(name: str, group: str) -> dict[tuple[str, int], list[list[int]]]:
    found = inspected(named(name))[1].groups[group]
    return {(s.tensor, s.axis): s.positions.tolist() for s in found.slices}


def each(number: int, start: int = 0) -> list[list[int]]:
    return [[start + i] for i in range(number)]


def test_a_batch_norm_belongs_to_its_convolution():
    norm = {(f"1.{t}", 0): each(5) for t in ("weight", "bias", "running_mean", "running_var")}
    expected = {("0.weight", 0): each(5), **norm, ("3.weight", 1): each(5)}
    assert slices_of("conv bn relu chain", "0") == expected
