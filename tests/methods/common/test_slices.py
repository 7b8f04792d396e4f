"""The weights of nodes, gathered from every slice."""

import torch
from torch import nn

import mipp
from mipp.methods.common.slices import axis_factor, sum_by_node, weights_by_node


def test_weights_by_node_are_rows_of_producers_and_columns_of_readers():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    group = mipp.inspect(model, torch.randn(2, 3, dtype=torch.float64)).groups["0"]
    tensors = dict(model.named_parameters())
    made = torch.cat(list(weights_by_node(group, tensors, reads=False)), 1)
    read = torch.cat(list(weights_by_node(group, tensors, reads=True)), 1)
    assert torch.equal(made, torch.cat([model[0].weight, model[0].bias[:, None]], 1))
    assert torch.equal(read, model[2].weight.mT)


def test_factors_of_nodes_stand_at_their_positions():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    group = mipp.inspect(model, torch.randn(2, 1, 2, 2)).groups["0"]
    (part,) = [s for s in group.slices if s.reads]
    factor = axis_factor(part, torch.tensor([1.0, 2.0, 3.0]), model[2].weight)
    assert torch.equal(factor, torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(4)[None])


def test_sums_by_node_run_over_all_slices_and_are_zero_without():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    group = mipp.inspect(model, torch.randn(2, 3, dtype=torch.float64)).groups["0"]
    found = sum_by_node(group, dict(model.named_parameters()), lambda weights: weights.sum(1), reads=False)
    torch.testing.assert_close(found, model[0].weight.detach().sum(1) + model[0].bias.detach())
    assert torch.equal(sum_by_node(group, {}, torch.Tensor.abs, reads=None), torch.zeros(4, dtype=torch.float64))
