"""The model card of a pruned Hugging Face model."""

import sys

import mipp
from mipp.cli.options import ModelSource
from mipp.cli.pretrained import _card


def test_the_card_has_the_numbers_and_the_line_that_loads_the_model(tmp_path, monkeypatch):
    import torch
    from torch import nn

    monkeypatch.setattr(sys, "argv", ["mipp", "prune", "hf:base/model", "--macs", "0.5"])
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    result = mipp.prune(model, [torch.randn(16, 4)], mipp.Budget(nodes=4), progress=False)
    source = ModelSource("hf:base/model")
    stock, own = (_card(result, source, "16 rows", tmp_path / "small", stock=flag) for flag in (True, False))
    for card in (stock, own):
        assert "base_model: base/model" in card
        assert "4 of 8 nodes" in card
        assert f"| parameters | {result.report.before.params:,} | {result.report.after.params:,} |" in card
        assert "mipp prune hf:base/model --macs 0.5" in card
    assert "from transformers import Sequential" in stock
    assert "mipp.from_pretrained(" in own
