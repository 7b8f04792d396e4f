"""recover="distill": label-free, held-out batches decide, never worse than before."""

import pytest
import torch
from torch import nn

import mipp
from mipp.calibration import Calibration, read
from mipp.recovery import Distillation, distill


def network(hidden: int = 12) -> nn.Module:
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 5))


def batches(count: int = 9) -> list[torch.Tensor]:
    return [torch.randn(32, 6) for _ in range(count)]


def test_distillation_lowers_the_held_out_loss():
    dense, small = network(), network(4)
    data = read(Calibration(batches(), None), None)
    before, after = distill(small, dense, data, Distillation(epochs=5, learning_rate=1e-2))
    assert after < before


def test_distillation_keeps_the_weights_it_began_with_where_nothing_is_better():
    dense, small = network(), network(4)
    state = {k: v.clone() for k, v in small.state_dict().items()}
    data = read(Calibration(batches(), None), None)
    before, after = distill(small, dense, data, Distillation(epochs=2, learning_rate=1e6))
    assert after == before
    assert all(torch.equal(state[k], v) for k, v in small.state_dict().items())


def test_distillation_leaves_frozen_parameters_modes_and_gradients():
    dense, small = network(), network(4)
    small[0].requires_grad_(False)
    small.train()
    fixed = small[0].weight.clone()
    distill(small, dense, read(Calibration(batches(), None), None), Distillation(epochs=2, learning_rate=1e-2))
    assert torch.equal(small[0].weight, fixed)
    assert all(m.training for m in small.modules())
    assert all(p.grad is None for p in small.parameters())


def test_outputs_that_are_not_logits_are_matched_by_squared_error():
    dense, small = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
    data = read(Calibration([torch.randn(8, 2, 6, 6) for _ in range(9)], None), None)
    before, after = distill(small, dense, data, Distillation(epochs=5, learning_rate=1e-2))
    assert after < before


def test_prune_with_recover_reports_what_it_did_and_leaves_the_model():
    dense = network()
    state = {k: v.clone() for k, v in dense.state_dict().items()}
    result = mipp.prune(dense, batches(), mipp.Budget(nodes=0.3), recover="distill", progress=False)
    assert any("held-out loss" in note for note in result.report.notes)
    assert all(torch.equal(state[k], v) for k, v in dense.state_dict().items())


def test_one_batch_cannot_be_held_out():
    with pytest.raises(mipp.CalibrationError, match="two calibration batches"):
        mipp.prune(network(), batches(1), mipp.Budget(nodes=0.3), recover="distill", progress=False)


def test_an_unknown_way_to_recover_is_refused():
    with pytest.raises(mipp.MippError, match="distill"):
        mipp.prune(network(), batches(), mipp.Budget(nodes=0.3), recover="magic", progress=False)
