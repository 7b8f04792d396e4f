"""recover=Distillation(by="blocks"): one region after the other, never worse, resumable; the rest stays as it is."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from region_networks import network

import mipp
from mipp.refit import by_regions

BLOCKS = mipp.Distillation(by="blocks", epochs=3, learning_rate=1e-2, batch_size=8, seconds=math.inf)
KINDS = ("residual", "transformer", "recurrent", "chain")


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


@pytest.mark.parametrize(("kind", "by"), [("transformer", "blocks"), ("chain", "blocks"), ("residual", "network")])
def test_transformers_and_chains_learn_region_by_region_unless_told_otherwise(kind, by):
    (_, asked), (_, default) = (pruned(kind, replace(BLOCKS, by=chosen)) for chosen in (by, None))
    assert held_out_losses(asked)[1] < held_out_losses(asked)[0]
    assert_same_weights(asked.model, default.model)


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


class Branching(torch.nn.Module):
    """Residual blocks whose non-linearity is computed by one of two formulas; outputs of both are the same."""

    def __init__(self, other_way, strange=lambda _: False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.other_way, self.strange = other_way, strange
        self.first = torch.nn.Linear(6, 12)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(12, 12) for _ in range(6))
        self.last = torch.nn.Linear(12, 3)

    def bend(self, x, y):
        return 2 * torch.sigmoid(2 * y) - 1 if self.other_way(x) else torch.tanh(y)

    def forward(self, x):
        h = self.first(x)
        for a, b in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            h = h + b(self.bend(x, a(h)))
        h = torch.from_numpy(x.numpy().mean(1)).view(-1, 1) + h if self.strange(x) else h
        return self.last(torch.relu(h))


def branching_run(other_way, strange=lambda _: False):
    model = Branching(other_way, strange).eval()
    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(8, 6, generator=generator) for _ in range(17)]
    how = mipp.Distillation(by="blocks", epochs=4, learning_rate=1e-2, batch_size=8, seconds=1000)
    result = mipp.prune(
        model, data, mipp.Budget(nodes=0.6), mipp.methods.L1(), compensate=None, recover=how, progress=False
    )
    return data, result


def test_the_path_by_which_a_batch_computes_the_same_does_not_matter_to_regions(monkeypatch):
    monkeypatch.setattr(by_regions, "narrow_products", lambda _: nullcontext())  # bfloat16 tells the formulas apart
    regions = []
    learn = by_regions.ByRegions._learn
    monkeypatch.setattr(
        by_regions.ByRegions, "_learn", lambda work, *a: (regions.append(work.regions), learn(work, *a))
    )
    data, found = branching_run(lambda x: bool(x[0, 0] > 0))
    assert {bool(x[0, 0] > 0) for x in data} == {True, False}
    assert len(regions[0]) > 1
    _, straight = branching_run(lambda _: False)
    assert found.plan.kept == straight.plan.kept
    first, last = held_out_losses(found)
    assert last < first
    assert [first, last] == pytest.approx(held_out_losses(straight), rel=1e-3)
    for name, value in found.model.state_dict().items():
        assert torch.allclose(value, straight.model.state_dict()[name], atol=1e-4), name


def test_batches_that_regions_cannot_follow_are_left_out_and_counted():
    with pytest.warns(UserWarning, match="were left out of the distillation"):
        data, found = branching_run(lambda _: False, lambda x: bool(x[0, 1] > 1))
    count = sum(bool(x[0, 1] > 1) for x in data)
    assert count > 1
    note = next(note for note in found.report.warnings if "distillation" in note)
    assert note.startswith(f"Of 17 batches {count} were left out of the distillation: the code at test_by_regions.py")
    assert "takes numbers out of a tensor" in note
    first, last = held_out_losses(found)
    assert last < first
