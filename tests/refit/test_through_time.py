"""A recurrence is fitted through all its steps: states move with the weights, and count as they do."""

from dataclasses import replace

import pytest
import torch
from networks import ConvolutionalRNN, Tagger, normal, squared_error
from torch import nn

import mipp
from mipp.graph.layers import input_of
from mipp.plan import effort
from mipp.refit.through_time import ThroughTime, _learning


def recurrent(kind: str) -> tuple[nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    if kind == "convolution":
        maps = ConvolutionalRNN(8).eval()
        with torch.no_grad():
            maps.carry.weight.mul_(3)
        return maps, [normal(16, 4, 2, 4, 4, seed=seed) for seed in range(3)]
    layer = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind]
    model = Tagger(layer(5, 16, batch_first=True), 16)
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(3)
    return model.eval(), [normal(24, 12, 5, seed=seed) for seed in range(4)]


def prune(model: nn.Module, data: list[torch.Tensor], **options) -> mipp.Result:
    return mipp.prune(model, data, mipp.Budget(nodes=0.5), mipp.methods.L1(), progress=False, **options)


def without(monkeypatch, rounds: int = 0) -> None:
    monkeypatch.setitem(effort.EFFORTS, "default", replace(effort.DEFAULT, through_time=rounds))


def inspected(monkeypatch, look, model: nn.Module, data: list[torch.Tensor]) -> None:
    """Calls `look` with what is fitted through time, in place of the fit."""
    seen = []
    monkeypatch.setattr(ThroughTime, "fit", lambda self, rounds: seen.append(look(self)))
    prune(model, data)
    assert seen


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "convolution"])
def test_states_of_other_samples_come_nearer(kind, monkeypatch):
    model, (*data, unseen) = recurrent(kind)
    through = squared_error(prune(model, data).model, model, [(unseen,)])
    without(monkeypatch)
    assert through < 0.95 * squared_error(prune(model, data).model, model, [(unseen,)])


@pytest.mark.parametrize("kind", ["LSTM", "convolution"])
def test_products_are_those_with_the_normal_matrix_of_the_states(kind, monkeypatch):
    model, data = recurrent(kind)

    def look(work: ThroughTime) -> None:
        kept: dict = {}
        left = work._gradient(lambda index, states: kept.setdefault(index, work.unrolled.store.shelf().put(states)))
        one, other = ([normal(*t.shape, seed=n).double() for t in left] for n in (1, 2))
        products = [work._product(v, 1e-6, kept) for v in (one, other)]
        across = [
            sum(float((a * b).sum()) for a, b in zip(v, p, strict=True))
            for v, p in zip((other, one), products, strict=True)
        ]
        assert across[0] == pytest.approx(across[1], rel=1e-4)  # symmetric
        damped = [t for learner, part in work._parts(one) for t in learner.damp(part)]
        moved = 0.0
        for index in work.unrolled.steps:
            wanted = work.unrolled.steps[index].states
            ends = []
            for share in (1e-6, -1e-6):
                before = [t.clone() for t in work.tensors]
                work._set(before, one, share)
                ends.append([v.clone() for v in map(work.unrolled.run(index, wanted).get, wanted)])
                work._set(before)
            slopes = [(a - b) / 2e-6 for a, b in zip(*ends, strict=True)]
            moved += sum(float(s.square().sum()) for s in work._masked(index, slopes))
        own = sum(float((v * (p - d)).sum()) for v, p, d in zip(one, products[0], damped, strict=True))
        assert own == pytest.approx(moved, rel=1e-4)

    inspected(monkeypatch, look, model.double(), [batch.double() for batch in data])


@pytest.mark.parametrize("kind", ["LSTM", "convolution"])
def test_rows_times_a_step_are_what_the_outputs_move_by(kind, monkeypatch):
    model, data = recurrent(kind)

    def look(work: ThroughTime) -> None:
        learner, steps = work.learners[0], work.unrolled.steps[0]
        op = steps.uses[0][0]
        x = work.unrolled.run(0, steps.wanted())[input_of(op)]
        step = [normal(*t.shape, seed=3).double() for t in learner.tensors]
        moved = nn.functional.linear(x, *step) if kind == "LSTM" else nn.functional.conv2d(x, *step, padding=1)
        found = learner.rows(op, x) @ learner.joined(step)
        assert torch.allclose(found, moved.movedim(steps.dim, -1).reshape(found.shape))
        back = learner._split(learner.joined(step))
        assert all(torch.equal(a, b) for a, b in zip(back, step, strict=True))

    inspected(monkeypatch, look, model.double(), [batch.double() for batch in data])


def test_a_change_that_does_not_help_samples_held_out_is_taken_back(monkeypatch):
    model, data = recurrent("LSTM")
    monkeypatch.setattr(ThroughTime, "_change", lambda self: [torch.ones_like(tensor) for tensor in self.tensors])
    tried = prune(model, data).model
    without(monkeypatch)
    assert all(
        torch.equal(a, b) for a, b in zip(tried.parameters(), prune(model, data).model.parameters(), strict=True)
    )


def test_without_samples_to_hold_out_nothing_changes(monkeypatch):
    model, data = recurrent("LSTM")
    few = prune(model, [data[0][:6]]).model
    without(monkeypatch)
    assert all(
        torch.equal(a, b) for a, b in zip(few.parameters(), prune(model, [data[0][:6]]).model.parameters(), strict=True)
    )


def test_fast_and_a_small_memory_limit_leave_it_out(monkeypatch):
    model, data = recurrent("LSTM")
    monkeypatch.setattr(ThroughTime, "fit", lambda *_: pytest.fail("was fitted"))
    prune(model, data, effort="fast")
    prune(model, data, memory_limit="40 kB")


def test_gradients_are_not_asked_of_cudnn(monkeypatch):
    def look(work: ThroughTime) -> None:
        with _learning(work.tensors):
            assert not torch.backends.cudnn.enabled
            assert torch.is_grad_enabled()
        assert torch.backends.cudnn.enabled
        assert not torch.is_grad_enabled()

    inspected(monkeypatch, look, *recurrent("LSTM"))


def test_parameters_want_gradients_as_before():
    model, data = recurrent("LSTM")
    model.rnn.weight_hh_l0.requires_grad_(False)
    small = prune(model, data).model
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
