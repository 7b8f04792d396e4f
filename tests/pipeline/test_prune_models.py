"""Models that train themselves or draw at random go through `prune`."""

import copy

import pytest
import torch
from networks import Branch

import mipp


def images(count: int = 4) -> list[torch.Tensor]:
    return [torch.randn(8, 3, 6, 6) for _ in range(count)]


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_gets_the_model_in_evaluation_mode_and_may_change_that(training):
    model, seen = Branch().train(training), []
    before = copy.deepcopy(model.state_dict())

    def evaluate(m):
        seen.append(m.training)
        m(images()[0])
        m.train()
        return 0.0

    result = mipp.prune(model, images(), mipp.Budget(macs=0.5), evaluate=evaluate, progress=False)
    assert seen == [False, False]
    assert model.training is result.model.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
