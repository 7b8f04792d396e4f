"""Configurations describe the widths of a pruned model where they can."""

import pytest
import torch
import torch.nn.functional as F
from cases import assert_same
from llamas import ids, llama, transformers
from networks import halve, linear_layers, normal

import mipp

pytestmark = pytest.mark.usefixtures("quick")


def test_a_configuration_that_is_a_dict_stays_as_it_is():
    model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))), 6, 16, 3)
    model.config, model.save_pretrained = {"hidden": 16}, lambda: None
    assert halve(model, [normal(50, 6)]).model.config == {"hidden": 16}


def test_a_uniform_budget_gives_a_model_that_the_stock_configuration_describes(tmp_path):
    result = mipp.prune(
        llama(), [ids(16)], mipp.Budget(params=0.75, uniform=True), exclude=["model.embed_tokens"], progress=False
    )
    widths = set(result.plan.widths.items())
    assert {w for name, w in widths if "mlp" in name} == {result.model.config.intermediate_size}
    assert not any("from_pretrained" in note for note in result.report.notes)
    result.model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_same([loaded(**ids()).logits], [result.model(**ids()).logits], 1e-5)


def test_widths_that_no_configuration_describes_are_told():
    result = mipp.prune(llama(), [ids(16)], mipp.Budget(widths={"model.layers.0.mlp.gate_proj": 20}), progress=False)
    assert any("No configuration of LlamaForCausalLM describes these widths" in note for note in result.report.notes)
    assert result.model.config.intermediate_size == 48


def test_a_configuration_that_has_the_shapes_but_other_heads_is_not_taken(tmp_path):
    """Four heads of 8 have the matrices of two of 16: a BERT of half the width and half of its heads."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    net = transformers.BertForSequenceClassification(config).eval()
    result = mipp.prune(net, [ids(8)], mipp.Budget(nodes=0.5, uniform=True), mipp.methods.L2(), progress=False)
    assert (result.model.config.hidden_size, result.model.config.num_attention_heads) == (32, 2)
    assert mipp.save_pretrained(result.model, tmp_path / "out")
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert_same([loaded(**ids()).logits], [result.model(**ids()).logits], 1e-5)
