"""Steps of rules: equal parts go in pairs, unequal ones stay."""

import torch
from torch import nn

from mipp.graph.call import Call
from mipp.graph.rules.steps import hold, pair, repeat
from mipp.graph.trace import trace
from mipp.graph.tracker import Walk


def prepare(size: int):
    program = trace(nn.ReLU().eval(), Call((torch.randn(2, size),)))
    walk = Walk(program)
    return program.ops[0], walk, walk.atoms.fresh(size).reshape(1, size)


def test_the_same_position_of_equal_parts_is_one_node():
    op, walk, plane = prepare(6)
    pair(op, walk, plane, 1, 2)
    sets = walk.atoms.resolve().at(plane.numpy())[0]
    assert (sets[:3] == sets[3:]).all()
    assert len(set(sets.tolist())) == 3


def test_unequal_parts_stay():
    op, walk, plane = prepare(5)
    pair(op, walk, plane, 1, 2)
    sets = walk.atoms.resolve()
    assert (sets.reason_of[sets.at(plane.numpy())] >= 0).all()
    assert "2 unequal parts" in sets.reasons[0].text


def test_a_length_that_is_held_freezes_its_plane():
    op, walk, plane = prepare(4)
    walk.planes[op.inputs[0]] = (plane,)
    assert hold(op, walk, op.args[0], [1]) == [()]
    sets = walk.atoms.resolve()
    assert (sets.reason_of[sets.at(plane.numpy())] >= 0).all()


def test_positions_are_repeated_where_a_plane_varies():
    plane, other = torch.tensor([[3, 5]]), torch.tensor([[1], [2]])
    assert [p.tolist() for p in repeat((plane, other), 1, 2)] == [[[3, 3, 5, 5]], [[1], [2]]]
    assert repeat((plane,), 1, 1)[0] is plane
