"""Batches that take different paths through the code: with and without a mask, by their length, by their values."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import HALF, squared_error
from torch import Tensor, nn

import mipp

ENCODERS = ("BERT", "DistilBERT", "T5", "Whisper")
WIDTHS = {
    "BERT": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "DistilBERT": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "T5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8},
    "Whisper": {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
}


class Encoder(nn.Module):
    """An encoder of transformers that tells of every token what it is; those that are padding count as nothing."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(32, 5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.encoder(tokens, attention_mask=mask).last_hidden_state
        there = mask[:, 0, 0] if mask.ndim == 4 else mask
        return self.head(states) * there[:, : states.shape[1], None]


def encoder(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "Whisper":
        config = transformers.WhisperConfig(max_source_positions=8, num_mel_bins=6, **WIDTHS[kind])
        model = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    else:
        config = getattr(transformers, f"{kind.replace('BERT', 'Bert')}Config")(vocab_size=50, **WIDTHS[kind])
        model = getattr(transformers, f"{'T5Encoder' if kind == 'T5' else kind.replace('BERT', 'Bert')}Model")(config)
    return Encoder(model).eval()


def sentences(kind: str, batches: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of mixed lengths, of which every second one is without padding."""
    generator, found = torch.Generator().manual_seed(seed), []
    for number in range(batches):
        length = 8 if kind == "Whisper" else (8, 12, 10)[number % 3]
        size = torch.randint(length // 2, length + 1, (16, 1), generator=generator)
        mask = (torch.arange(length) < size) | (number % 2 == 0)
        tokens = torch.randint(3, 50, (16, length), generator=generator)
        if kind == "Whisper":
            tokens = torch.randn(16, 6, 16, generator=generator)
        found.append((tokens, mask.long()))
    return found


def forced(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same with a mask that is applied as it is, padding or not."""
    return [(tokens, mask.bool()[:, None, None].expand(-1, 1, mask.shape[1], -1)) for tokens, mask in batches]


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_that_skips_masks_is_refitted_as_well_as_with_the_mask_forced_on(kind):
    model, fresh = encoder(kind), sentences(kind, 4, 1)
    data = sentences(kind, 8, 0)
    always = data if kind == "Whisper" else forced(data)  # which ignores the mask
    results = [mipp.prune(model, [(batch,) for batch in given], HALF, progress=False) for given in (data, always)]
    assert not any("efit" in note for note in results[0].report.notes)
    assert results[0].plan.kept == results[1].plan.kept
    mixed, full, cut = (
        squared_error(small.eval(), model, fresh)
        for small in (*(result.model for result in results), mipp.apply(results[0].plan, model))
    )
    assert mixed == pytest.approx(full, rel=0.01)
    assert mixed < 0.7 * cut


class Branching(nn.Module):
    """Two layers; the non-linearity between them is computed by one of two formulas."""

    def __init__(self, other_way: Callable[[Tensor], bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 3)
        self.other_way = other_way

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = 2 * torch.sigmoid(2 * y) - 1 if self.other_way(x) else torch.tanh(y)
        return self.c(y + F.relu(self.b(y))).mean(1)


CONDITIONS: dict[str, Callable[[Tensor], bool]] = {
    "length": lambda x: x.shape[1] > 4,
    "value": lambda x: bool(x[0, 0, 0] > 0),
    "rows": lambda x: len(x[x[:, 0, 0] > 0]) % 2 == 0,
    "samples": lambda x: len(x) % 2 == 1,
}


def series(count: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(15 + n % 2, 3 + n % 4, 6, generator=generator) for n in range(count)]


@pytest.mark.parametrize(
    ("condition", "method"),
    [
        *((condition, mipp.methods.MIPP()) for condition in CONDITIONS),
        ("value", mipp.methods.MIPP(estimator="surrogate")),
        ("value", mipp.methods.ThiNet()),
    ],
)
def test_the_path_by_which_a_batch_computes_the_same_does_not_matter(condition, method):
    branching, straight = Branching(CONDITIONS[condition]).eval(), Branching(lambda _: False).eval()
    assert {CONDITIONS[condition](x) for x in series()} == {True, False}
    results = [mipp.prune(m, series(), HALF, method, progress=False) for m in (branching, straight)]
    assert results[0].plan.kept == results[1].plan.kept
    for (name, found), expected in zip(results[0].model.named_parameters(), results[1].model.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-4), name


def test_distillation_matches_the_values_of_every_path():
    dense = Branching(CONDITIONS["value"]).eval()
    how = mipp.Distillation(seconds=1000, epochs=8)
    refitted, recovered = (
        mipp.prune(dense, series(), mipp.Budget(nodes=0.3), recover=recover, progress=False).model.eval()
        for recover in (None, how)
    )
    fresh = [(x,) for x in series(24)[12:]]
    assert squared_error(recovered, dense, fresh) < squared_error(refitted, dense, fresh)


class Skipping(Branching):
    """Leaves a layer out, for some inputs."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.a(x))
        return self.c(y if self.other_way(x) else y + self.b(y)).mean(1)


def test_a_layer_is_refitted_on_the_batches_that_come_by_it():
    model = Skipping(lambda x: x.shape[1] > 5).eval()
    data = series()
    result = mipp.prune(model, data, HALF, progress=False)
    assert not any("efit" in note for note in result.report.notes)
    fresh = [(x,) for x in series(24)[12:]]
    assert squared_error(result.model.eval(), model, fresh) < squared_error(
        mipp.apply(result.plan, model), model, fresh
    )


class Outside(Branching):
    """Computes one value by NumPy, for some inputs."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.from_numpy(x.numpy().mean((1, 2))).view(-1, 1) if self.other_way(x) else 1.0
        return super().forward(x.clone()) * scale


def test_batches_that_cannot_be_followed_are_left_out_and_counted():
    model, data = Outside(lambda x: x.shape[1] > 5).eval(), series()
    result = mipp.prune(model, data, HALF, progress=False)
    assert any(
        note.startswith("Of 12 calibration batches 3 were left out of the refit: ") for note in result.report.notes
    )
    cut, fresh = mipp.apply(result.plan, model), [(x,) for x in series(24)[12:]]
    assert squared_error(result.model.eval(), model, fresh) < squared_error(cut, model, fresh)
