"""GraSP against finite differences."""

import torch
from tasks import SIZES, chain, mean_loss, node_parts, task, weights_of

from mipp.methods import (
    GraSP,
)


def test_grasp_is_weight_times_the_change_of_the_gradient_along_itself():
    given = task(chain())

    def slope(weights):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        found = torch.autograd.grad(mean_loss(given, leaves, 200.0), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    weights = weights_of(given.model)
    gradient, step = slope(weights), 1e-2
    ahead, behind = (slope({n: w + s * step * gradient[n] for n, w in weights.items()}) for s in (1, -1))
    products = {n: w * (ahead[n] - behind[n]) / (2 * step) for n, w in weights.items()}
    found = {s: GraSP(structure=s).rank(given) for s in ("l1", "gate")}
    for name, size in SIZES.items():
        after = str(int(name) + 2)
        absolute = torch.stack([node_parts(given, products, name, i).abs().sum() for i in range(size)])
        torch.testing.assert_close(found["l1"][name], absolute, rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(found["gate"][name], products[f"{after}.weight"].sum(0), rtol=1e-5, atol=1e-12)
