"""recover=Distillation(by="blocks"): one region after the other, never worse, resumable; the rest stays as it is."""

import copy

import pytest
import torch
from region_networks import network

import mipp
from mipp.refit import by_regions

BLOCKS = mipp.Distillation(by="blocks", epochs=3, learning_rate=1e-2, batch_size=8)
KINDS = ("residual", "transformer", "recurrent")


def pruned(kind: str, recover: mipp.Distillation | None = BLOCKS, **options) -> tuple[torch.nn.Module, mipp.Result]:
    model, data = network(kind)
    budget = mipp.Budget(nodes=0.6)
    method = mipp.methods.all()["l1"]()
    return model, mipp.prune(model, data, budget, method, recover=recover, progress=False, **options)


def held_out_losses(result: mipp.Result) -> tuple[float, float]:
    note = next(note for note in result.report.notes if note.startswith("Distillation took"))
    before, after = note.removesuffix(".").split(" from ")[1].split(" to ")
    return float(before), float(after)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_regions_bring_the_outputs_nearer_and_leave_the_dense_model(kind):
    before = copy.deepcopy(network(kind)[0])
    model, result = pruned(kind)
    first, last = held_out_losses(result)
    assert last < first
    assert_same_weights(before, model)
    assert not any(p.requires_grad is False for p in result.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_that_only_harms_leaves_all_as_it_was(kind):
    harm = mipp.Distillation(by="blocks", epochs=1, learning_rate=1e4, batch_size=8)
    _, result = pruned(kind, harm)
    first, last = held_out_losses(result)
    assert last <= first
    if last == first:
        assert_same_weights(pruned(kind, None)[1].model, result.model)


def test_while_a_region_learns_nothing_else_changes(monkeypatch):
    changed = []
    run = by_regions._Lesson.run

    def watched(lesson, *arguments):
        before = {name: value.clone() for name, value in lesson.work.learner.state_dict().items()}
        run(lesson, *arguments)
        after = lesson.work.learner.state_dict()
        different = {name for name in before if not torch.equal(before[name], after[name])}
        changed.append((different, set(lesson.region.weights)))

    monkeypatch.setattr(by_regions._Lesson, "run", watched)
    pruned("residual")
    assert any(different for different, _ in changed)
    assert all(different <= own for different, own in changed)


def test_an_interrupted_recovery_goes_on_with_the_next_region_to_the_same_weights(tmp_path, monkeypatch):
    expected = pruned("residual")[1]
    run, lessons = by_regions._Lesson.run, []

    def interrupted(lesson, *arguments):
        if len(lessons) == 2:
            raise KeyboardInterrupt
        lessons.append(lesson.region)
        run(lesson, *arguments)

    monkeypatch.setattr(by_regions._Lesson, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pruned("residual", checkpoint=tmp_path)
    monkeypatch.setattr(by_regions._Lesson, "run", lambda lesson, *a: (lessons.append(lesson.region), run(lesson, *a)))
    result = pruned("residual", checkpoint=tmp_path)[1]
    assert len(lessons) == 3
    assert result.resumed
    assert_same_weights(expected.model, result.model)
    assert held_out_losses(expected) == held_out_losses(result)


def test_an_unknown_reach_is_refused():
    with pytest.raises(mipp.MippError, match="'network' or 'blocks' or None"):
        mipp.Distillation(by="layers")
