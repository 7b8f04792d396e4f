"""The steps of a recurrence: its states, those of the dense network, and the samples that are held out."""

import torch
from networks import Tagger, normal
from torch import nn

import mipp
from mipp.refit.through_time import ThroughTime
from mipp.refit.unrolled import HELD_OUT, Unrolled

STEPS, WIDTH = 7, 12


def unrolled(monkeypatch, look, sizes=(24, 10)) -> None:
    torch.manual_seed(0)
    model = Tagger(nn.GRU(3, WIDTH, batch_first=True), WIDTH, 2).eval()
    data = [normal(size, STEPS, 3, seed=n) for n, size in enumerate(sizes)]
    seen = []
    monkeypatch.setattr(ThroughTime, "fit", lambda self, _: seen.append(look(self.unrolled, model, data)))
    mipp.prune(model, data, mipp.Budget(nodes=0.5), mipp.methods.L1(), progress=False)
    assert seen


def test_states_are_what_the_layer_wrote_and_reads_again(monkeypatch):
    def look(found: Unrolled, model: Tagger, data: list[torch.Tensor]) -> None:
        (state,), written = found.wanted(0), model.rnn(data[0])[0]
        assert state.shape == (len(data[0]), STEPS, WIDTH // 2)
        units = written[0].mT  # [units, steps]
        for unit in state[0].mT[:, 1:]:  # the first state is that it starts from
            assert min((unit - own[:-1]).abs().max() for own in units) < 1e-5
        assert len(found.steps[0].states) == 1

    unrolled(monkeypatch, look)


def test_one_in_eight_samples_is_held_out_whatever_the_batches(monkeypatch):
    def look(found: Unrolled, _: Tagger, data: list[torch.Tensor]) -> None:
        held = torch.cat([found.is_held(index, 2 * len(batch)) for index, batch in enumerate(data)])
        by_sample = held.view(-1, 2)
        assert torch.equal(by_sample[:, 0], by_sample[:, 1])
        assert torch.equal(by_sample[:, 0], torch.arange(len(by_sample)) % HELD_OUT == HELD_OUT - 1)

    unrolled(monkeypatch, look)


def test_the_way_back_takes_more_memory_for_more_samples(monkeypatch):
    sizes = []
    for count in (16, 32):
        unrolled(monkeypatch, lambda found, *_: sizes.append(found.bytes_of_gradients), (count,))
    assert 1.9 < sizes[1] / sizes[0] < 2.1
