"""Linear layers and convolutions, in groups or not, with tied weights."""

from cases import inspected, named


def slices_of(name: str, group: str) -> dict[tuple[str, int], list[list[int]]]:
    found = inspected(named(name))[1].groups[group]
    return {(s.tensor, s.axis): s.positions.tolist() for s in found.slices}


def each(number: int, start: int = 0) -> list[list[int]]:
    return [[start + i] for i in range(number)]


def test_a_chain_of_linears():
    assert slices_of("linear chain", "0") == {
        ("0.weight", 0): each(6),
        ("0.bias", 0): each(6),
        ("2.weight", 1): each(6),
    }
    assert slices_of("linear chain", "2") == {
        ("2.weight", 0): each(5),
        ("2.bias", 0): each(5),
        ("4.weight", 1): each(5),
    }


def test_a_depthwise_convolution_follows_its_input():
    slices = slices_of("depthwise", "0")
    assert slices["2.weight", 0] == slices["2.bias", 0] == slices["5.weight", 1] == each(5)
    assert not any(t == "2.weight" and axis == 1 for t, axis in slices)
    assert slices_of("depthwise multiplier", "0")["2.weight", 0] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_grouped_convolutions():
    """Few groups: the same position of each goes. Many groups: whole groups go."""
    few = slices_of("few groups", "0")
    assert few["0.weight", 0] == [[i, i + 4] for i in range(4)]
    assert few["2.weight", 1] == each(4)
    assert slices_of("few groups", "2")["2.weight", 0] == [[i, i + 3] for i in range(3)]
    many = slices_of("many groups", "0")
    assert many["0.weight", 0] == many["2.weight", 0] == many["4.weight", 1] == [[2 * i, 2 * i + 1] for i in range(4)]


def test_tied_weights_share_their_nodes():
    found = inspected(named("tied weights"))[1]
    slices = {(s.tensor, s.axis) for s in found.groups["embed"].slices}
    assert slices == {("embed.weight", 1), ("up.weight", 1), ("down.weight", 0), ("down.bias", 0)}
    reads = {s.tensor for s in found.groups["embed"].slices if s.reads}
    assert {"embed.weight", "up.weight"} <= reads
    assert {f.name: f.nodes for f in found.frozen}["embed"] == 7
