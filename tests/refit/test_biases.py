"""Layers without a bias get one where that is allowed, and the budget of parameters has room for it."""

import torch
from torch import nn

import mipp
from mipp.refit.settings import Refit


def test_added_biases_lower_the_error():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(6, 24, bias=False), nn.ReLU(), nn.Linear(24, 24, bias=False), nn.ReLU(), nn.Linear(24, 3, bias=False)
    )
    data = torch.randn(512, 6)
    errors = []
    for allow in (False, True):
        options = Refit(allow_bias=allow)
        small = mipp.prune(model, [data], mipp.Budget(nodes=0.3), compensate=options, progress=False).model
        missing = (model(data) - small(data)).detach()
        errors.append(float(missing.square().mean()))
    assert errors[1] < errors[0]
    assert float(missing.mean(0).abs().max()) < 1e-4  # the last layer's bias takes the mean


def test_biases_are_added_as_far_as_the_budget_of_parameters_allows():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False)
    )
    data, options = [torch.randn(200, 8)], {"compensate": Refit(allow_bias=True), "progress": False}
    tight = mipp.prune(model, data, mipp.Budget(params=0.5), **options)
    assert tight.report.after.params <= 0.5 * tight.report.before.params
    assert any("left none for a bias of" in note for note in tight.report.notes)
    loose = mipp.prune(model, data, mipp.Budget(params=0.5, nodes=0.3), **options)
    assert loose.model[2].bias is not None
    assert loose.report.after.params <= 0.5 * loose.report.before.params


def test_a_transposed_convolution_gets_a_bias_of_its_outputs():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 5, 2, bias=False))
    options = {"compensate": Refit(allow_bias=True), "progress": False}
    small = mipp.prune(model, [torch.randn(40, 3, 6, 6)], mipp.Budget(nodes=0.5), **options).model
    assert small[2].bias.shape == (5,)
