"""The table of rules: by the name of the op, whether it works in place or not."""

import torch

from mipp.graph.registry import has_rule, rule_of

aten = torch.ops.aten


def test_an_op_in_place_has_the_rule_of_its_twin():
    assert rule_of(aten.add_.Tensor) is rule_of(aten.add.Tensor) is not None


def test_pointwise_ops_have_a_rule_and_unknown_ones_none():
    assert has_rule(aten.erfinv.default)
    assert not has_rule(aten.linalg_svd.default)
    assert not has_rule(aten.where.default)  # it gives places
