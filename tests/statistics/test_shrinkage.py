"""Covariances of which few rows were seen are nearer to the true ones, and no layer looks free."""

import torch
from torch import nn

import mipp
from mipp.statistics.moments import Moments
from mipp.statistics.shrinkage import shrink


def moments(rows: int, features: int, seed: int = 0) -> tuple[Moments, torch.Tensor]:
    """Moments of correlated features, and their true covariance."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator, dtype=torch.float64) / features**0.5
    mixing += torch.eye(features)
    found = Moments(features)
    found.update(torch.randn(rows, features, generator=generator, dtype=torch.float64) @ mixing.T)
    return found, mixing @ mixing.T


def test_few_rows_give_a_covariance_that_is_nearer_to_the_true_one_and_of_full_rank():
    for seed in range(5):
        found, true = moments(24, 32, seed)
        nearer = shrink(found)
        assert (nearer - true).norm() < (found.covariance - true).norm()
        assert torch.linalg.eigvalsh(nearer)[0] > 1e-3
        torch.testing.assert_close(nearer.diagonal(), found.covariance.diagonal())


def test_three_rows_an_input_are_believed():
    found, _ = moments(96, 32)
    assert torch.equal(shrink(found), found.covariance)


def test_a_layer_that_was_seen_too_seldom_is_not_free_and_the_report_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)).double()
    result = mipp.prune(model, [torch.randn(16, 64).double()], mipp.Budget(nodes=0.5), progress=False)
    lost = [lost / whole for lost, whole in result.plan.information.values()]
    assert min(lost) > 0.01, lost
    assert any("were shrunk" in note for note in result.report.notes)
