"""Products are those of the whole matrices, whichever library multiplies and however they fall into strips."""

import pytest
import torch

from mipp.statistics import products
from mipp.statistics.products import add_products, complete, times_transposed


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 40, 7), (3, 50, 20), (1, 2100, 300)])
def test_sums_of_products_are_those_of_all_rows(kind, size):
    groups, rows, features = size
    x, r = torch.randn(groups, rows, features, dtype=kind), torch.randn(groups, rows, 17, dtype=kind)
    total = torch.ones(groups, features, features, dtype=torch.float64)
    across = torch.ones(groups, features, 17, dtype=torch.float64)
    add_products(total, x, across, r)
    wide, error = x.double(), 1e-12 if kind == torch.float64 else 1e-6
    assert torch.allclose(complete(total), 1 + wide.mT @ wide, rtol=0, atol=error * rows)
    assert torch.equal(total, total.mT)
    assert torch.allclose(across, 1 + wide.mT @ r.double(), rtol=0, atol=error * rows)


def turned(rows: torch.Tensor) -> torch.Tensor:
    return rows.mT.contiguous().mT


@pytest.mark.parametrize("sizes", [(300, 40), (40, 300)])
@pytest.mark.parametrize("left_form", [torch.clone, turned])
@pytest.mark.parametrize("right_form", [torch.clone, turned, lambda rows: torch.cat([rows, rows], 2)[..., :2000]])
def test_both_libraries_multiply_alike(monkeypatch, sizes, left_form, right_form):
    left, right = (form(torch.randn(1, n, 2000)) for form, n in zip((left_form, right_form), sizes, strict=True))
    fast = times_transposed(left, right)
    monkeypatch.setattr(products, "_FEWEST", 10**12)
    plain = times_transposed(left, right)
    exact = left.double() @ right.double().mT
    assert fast.shape == plain.shape == (1, *sizes)
    assert (fast - exact).abs().max() < 1e-5 * 2000**0.5
    assert (plain - exact).abs().max() < 1e-5 * 2000**0.5
