"""Samples are split by image before an estimator is trained on them."""

import torch

from mipp.estimators.prepared import split_by_image


def test_rows_of_an_image_stay_on_one_side():
    images = torch.arange(10).repeat_interleave(7)
    fit, held = split_by_image(images, torch.Generator().manual_seed(0))
    assert not set(images[fit].tolist()) & set(images[held].tolist())
    assert len(fit) + len(held) == 70
    assert len(held) == 14
