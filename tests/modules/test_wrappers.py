"""Wrappers of torch.compile and data parallelism are taken off."""

import pytest
import torch
import torch.distributed as dist
from networks import image_network, linear_chain, prune_chain, prune_images, vectors
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


def test_wrappers_are_taken_off():
    expected = prune_images(image_network())
    for wrapped in (
        nn.DataParallel(image_network()),
        torch.compile(image_network()),
        torch.compile(nn.DataParallel(image_network())),
    ):
        result = prune_images(wrapped)
        assert type(result.model) is nn.Sequential
        assert result.plan == expected.plan


def test_apply_mask_and_load_take_wrappers_off_as_prune_does(tmp_path):
    model = nn.DataParallel(image_network())
    found = prune_images(model)
    found.save(tmp_path / "small")
    for other in (mipp.apply(found.plan, model), mipp.mask(found.plan, model), mipp.load(tmp_path / "small", model)):
        assert type(other) is nn.Sequential


def test_what_torch_compile_and_data_parallel_wrap_is_pruned():
    model = linear_chain()
    wrapped = nn.DataParallel(model)
    result = prune_chain(wrapped)
    assert type(result.model) is nn.Sequential
    assert mipp.inspect(wrapped, vectors(2)).groups


def test_a_model_that_fully_shard_has_sharded_is_to_be_pruned_before(tmp_path):
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = fully_shard(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
        with pytest.raises(mipp.UnsupportedModelError, match="Prune the model before it is sharded"):
            mipp.inspect(model, torch.randn(2, 6))
    finally:
        dist.destroy_process_group()
