"""A default device of the caller is left to the caller."""

import pytest
import torch
from cases import assert_same, named
from networks import assert_equal_results, prune_chain, state_of

import mipp
from mipp.runtime.default_device import accelerator

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("method", ["mipp", "thinet", "hrank", "osscar", "taylor"])
def test_a_default_device_of_the_caller_is_left_to_the_caller(method, tmp_path):
    """The meta device stands for a GPU: nothing can be computed there, so nothing of ours may be made there."""
    seen = []

    def evaluate(model):
        seen.append(torch.get_default_device().type)
        return 0.0

    case, made = named("residual"), mipp.methods.all()[method]()
    batches = case.batches()
    options = {"method": made, "loss_fn": lambda output, _: output.square().mean(), "evaluate": evaluate}
    expected = prune_chain(case.model(), batches, **options)
    model = case.model()
    with torch.device("meta"):
        result = prune_chain(model, batches, **options)
        result.save(tmp_path / "small")
        again = mipp.load(tmp_path / "small", model)
    assert seen == ["cpu", "cpu", "meta", "meta"]
    assert_equal_results(result, expected)
    assert_same(list(again.state_dict().values()), list(state_of(result).values()), rtol=0)


def test_the_device_is_that_of_the_model():
    result = prune_chain(device="cpu")
    assert {p.device.type for p in result.model.parameters()} == {"cpu"}


@pytest.mark.parametrize("found", [None, torch.device("cuda"), RuntimeError("Cannot access accelerator device")])
def test_where_there_is_no_accelerator_old_and_new_versions_of_torch_say_the_same(monkeypatch, found):
    def current() -> torch.device | None:
        if isinstance(found, RuntimeError):
            raise found
        return found

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
    assert accelerator() == (None if isinstance(found, RuntimeError) else found)
