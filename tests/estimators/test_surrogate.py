"""The masked surrogate compares with a reference that keeps training."""

import pytest
import torch

from mipp.estimators import MLP, Information, Samples


def fitted(estimator, x, y, seed=0, noise=0.5) -> Information:
    return estimator(Samples.of(x, y, noise), torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_the_running_reference_forgets_what_the_fixed_one_remembers():
    """Each step costs little; against all nodes the losses add up."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=g)
    y = x.sum(1, keepdim=True) + 0.5 * torch.randn(2000, 1, generator=g)
    lost = {}
    for reference in ("fixed", "running"):
        settings = MLP(3, (32, 32), 400, 60, 120, reference=reference)
        info = fitted(settings, x, y)
        for node in (0, 1, 2):
            info.remove(node)
        lost[reference] = info.loss(3)
    assert lost["fixed"] > 2 * lost["running"] > 0
