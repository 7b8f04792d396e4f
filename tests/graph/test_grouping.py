"""Groups: nodes that are cut from the same axes of the same tensors, in the order of the data flow."""

import torch
from networks import image_network

import mipp


def test_every_position_of_a_group_is_in_the_tensor_once_and_nodes_are_apart():
    for group in mipp.inspect(image_network(), torch.randn(2, 3, 8, 8)).groups.values():
        for part in group.slices:
            positions = part.positions.reshape(-1).tolist()
            assert len(part.positions) == group.size
            assert len(set(positions)) == len(positions)


def test_nodes_are_counted_through_all_groups():
    groups = list(mipp.inspect(image_network(), torch.randn(2, 3, 8, 8)).groups.values())
    assert [g.first_node for g in groups] == [sum(h.size for h in groups[:i]) for i in range(len(groups))]
