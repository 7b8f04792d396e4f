"""Tokens in pieces: the last tenth measures perplexity, the others calibrate."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mipp.cli.errors import CommandError
from mipp.cli.texts import Pieces, Table


class Uniform(nn.Module):
    """Thinks every token as likely as any other."""

    def forward(self, input_ids):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 16))


def test_pieces_are_calibrated_on_once_and_those_held_out_never():
    pieces = Pieces(torch.arange(20 * 3).reshape(20, 3))
    seen = torch.cat([batch["input_ids"] for batch in pieces.batches(seed=1)])
    assert sorted(seen[:, 0].tolist()) == pieces.tokens[:18, 0].tolist()
    assert seen[:, 0].tolist() != sorted(seen[:, 0].tolist())


def test_perplexity_of_knowing_nothing_is_the_number_of_tokens():
    pieces = Pieces(torch.randint(0, 16, (20, 5)))
    assert pieces.perplexity(Uniform())["perplexity"] == pytest.approx(16, rel=1e-5)


@pytest.mark.parametrize(("name", "column"), [("notes.txt", "text"), ("table.csv", "text"), ("table.csv", None)])
def test_a_text_has_no_columns(tmp_path, name, column):
    (tmp_path / name).write_text("text,label\nwords,1\n")
    with pytest.raises(CommandError, match="is read as text, without columns; expected a table as "):
        Table(tmp_path / name, column).texts()
