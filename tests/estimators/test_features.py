"""Covariances in units of the spread, and inverses that rounding cannot make indefinite."""

import torch

from mipp.estimators.features import Features, invert


def test_precision_is_the_inverse_and_targets_are_of_the_original_scale():
    torch.manual_seed(0)
    samples = torch.randn(200, 4, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 10.0, 1e4])
    covariance, weight = samples.T.cov(), torch.randn(3, 4, dtype=torch.float64)
    found = Features.of(covariance)
    assert torch.allclose(found.precision @ found.covariance, torch.eye(4, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(found.with_target(weight), covariance @ weight.mT, rtol=1e-12)


def test_a_covariance_that_rounding_made_indefinite_is_raised():
    values = torch.tensor([1.0, 1.0, -1e-6], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    found = Features.of((basis * values) @ basis.mT)
    assert torch.linalg.eigvalsh(found.covariance)[0] > 0
    assert torch.linalg.eigvalsh(found.covariance[:2, :2])[0] > 0


def test_inverting_a_positive_definite_matrix():
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    assert torch.allclose(invert(matrix), torch.linalg.inv(matrix))
