"""Atoms that meet become one node; what meets a fixed position stays."""

import torch

from mipp.graph.axes import FIXED, Atoms, Reason, along, compress, line, merge, move_plane, without

REASON = Reason("for a test")


def test_united_atoms_are_one_set_and_go_together():
    atoms = Atoms()
    a, b = atoms.fresh(3), atoms.fresh(3)
    atoms.unite(a, b, REASON)
    sets = atoms.resolve()
    assert sets.of(a.numpy()).tolist() == sets.of(b.numpy()).tolist()
    assert len(set(sets.of(a.numpy()).tolist())) == 3
    assert (sets.reason_of < 0).all()


def test_an_atom_that_meets_a_fixed_position_stays_with_all_it_is_united_with():
    atoms = Atoms()
    a, b = atoms.fresh(2), atoms.fresh(2)
    atoms.unite(a, b, REASON)
    atoms.unite(b, torch.tensor([FIXED, b[1]]), Reason("the first"))
    atoms.freeze(a, Reason("a later reason"))
    sets = atoms.resolve()
    first, second = sets.of(a.numpy())
    assert sets.reasons[sets.reason_of[first]].text == "the first"
    assert sets.reasons[sets.reason_of[second]].text == "a later reason"


def test_what_varies_elsewhere_goes_by_whole_rows_where_a_length_is_held():
    atoms = Atoms()
    table = atoms.fresh(6).reshape(2, 3)
    atoms.hold(table, [1], REASON)
    at = atoms.resolve().at(table.numpy())
    assert (at == at[:, :1]).all()
    assert at[0, 0] != at[1, 0]


def test_an_op_that_moves_data_moves_its_planes():
    plane = torch.arange(4).reshape(4, 1)
    (moved,) = move_plane(plane, (4, 5), lambda t: t.transpose(0, 1).flip(1))
    assert torch.equal(moved, torch.arange(4).flip(0).reshape(1, 4))


def test_the_result_of_a_sum_varies_where_an_operand_does():
    atoms = Atoms()
    rows, columns = atoms.fresh(2).reshape(2, 1), atoms.fresh(3).reshape(1, 3)
    planes = merge([((rows, columns), (2, 3)), ((), (3,))], atoms, REASON)
    assert torch.equal(along(planes, [0]), rows)
    assert torch.equal(along(planes, [1]), columns)
    assert without(planes, [0, 1]) == ()
    # the second operand has fixed positions along the columns, which stay for that
    assert [i for i in columns.reshape(-1).tolist() if atoms.resolve().reason_of[atoms.resolve().of_atom[i]] >= 0]


def test_a_plane_is_as_small_as_what_varies():
    table = torch.tensor([[1, 1], [2, 2]])
    assert compress(table).shape == (2, 1)
    assert line(table, 0).tolist() == [1, 2]
