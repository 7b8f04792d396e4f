"""Pruned Hugging Face models as folders: stock where a configuration has the widths, else with a modelling file."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import mipp
from mipp.storage.hugging_face import _Widths

transformers = pytest.importorskip("transformers")

from mipp.storage.hugging_face import save_pretrained  # noqa: E402

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def llama():
    config = transformers.LlamaConfig(vocab_size=64, num_key_value_heads=2, max_position_embeddings=64, **SMALL)
    return transformers.LlamaForCausalLM(config), lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}


def tied_gpt2():
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    return transformers.GPT2LMHeadModel(config), lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}


def bert():
    config = transformers.BertConfig(vocab_size=64, max_position_embeddings=32, num_labels=3, **SMALL)
    model = transformers.BertForSequenceClassification(config)
    return model, lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}


def vit():
    config = transformers.ViTConfig(image_size=16, patch_size=4, num_labels=3, **SMALL)
    return transformers.ViTForImageClassification(config), lambda n: {"pixel_values": torch.randn(n, 3, 16, 16)}


def t5():
    config = transformers.T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)

    def batch(n):
        return {"input_ids": torch.randint(0, 64, (n, 10)), "decoder_input_ids": torch.randint(0, 64, (n, 6))}

    return transformers.T5ForConditionalGeneration(config), batch


def whisper():
    config = transformers.WhisperConfig(
        vocab_size=64, num_mel_bins=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, d_model=32,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=20, pad_token_id=0,
        max_target_positions=20, decoder_start_token_id=1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip

    def batch(n):
        return {"input_features": torch.randn(n, 8, 40), "decoder_input_ids": torch.randint(0, 64, (n, 6))}

    return transformers.WhisperForConditionalGeneration(config), batch


def siglip():
    """Its head is an `nn.MultiheadAttention`, which takes the size of its heads from its width."""
    config = transformers.SiglipVisionConfig(image_size=16, patch_size=4, **SMALL)
    return transformers.SiglipVisionModel(config), lambda n: {"pixel_values": torch.randn(n, 3, 16, 16)}


def phi3():
    config = transformers.Phi3Config(vocab_size=64, num_key_value_heads=2, pad_token_id=0, **SMALL)
    return transformers.Phi3ForCausalLM(config), lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}


def neox():
    """Its weights have other names in a file of transformers' own."""
    config = transformers.GPTNeoXConfig(vocab_size=64, max_position_embeddings=64, **SMALL)
    return transformers.GPTNeoXForCausalLM(config), lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}


def mixtral():
    """The matrices of its experts are one tensor, but many in a file of transformers' own."""
    config = transformers.MixtralConfig(
        vocab_size=64, num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64, **SMALL
    )
    return transformers.MixtralForCausalLM(config), lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}


def xglm():
    """The table of positions that it computes is not among the weights of a file."""
    config = transformers.XGLMConfig(
        vocab_size=64, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48, max_position_embeddings=64
    )
    return transformers.XGLMForCausalLM(config), lambda n: {"input_ids": torch.randint(2, 64, (n, 12))}


def ctrl():
    config = transformers.CTRLConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4, dff=48, n_positions=64)
    return transformers.CTRLLMHeadModel(config), lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}


SLOW = (mixtral, ctrl, tied_gpt2, bert, vit, t5, whisper, phi3)
MODELS = [llama, neox, xglm, siglip, *(pytest.param(make, marks=pytest.mark.slow) for make in SLOW)]


def pruned(make, exclude=(), **budget):
    torch.manual_seed(0)
    model, batch = make()
    model.eval()
    data = mipp.Calibration([batch(8) for _ in range(3)])
    result = mipp.prune(model, data, mipp.Budget(**budget), exclude=exclude, progress=False)
    return result.model.eval(), batch(3)


def outputs(model, batch):
    with torch.no_grad():
        found = model(**batch)
        return found.logits if "logits" in found else found.pooler_output


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_uneven_widths_load_without_and_with_the_code_of_the_folder(make, tmp_path):
    small, batch = pruned(make, params=0.8)
    assert not save_pretrained(small, tmp_path / "out")
    expected = outputs(small, batch)
    assert torch.equal(outputs(mipp.from_pretrained(tmp_path / "out").eval(), batch), expected)
    autos = json.loads((tmp_path / "out/config.json").read_text())["auto_map"]
    auto = next((name for name in autos if name != "AutoModel"), "AutoModel")
    loaded = getattr(transformers, auto).from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    assert torch.equal(outputs(loaded, batch), expected)
    assert type(loaded).__name__ == f"Pruned{type(small).__name__}"
    loaded.save_pretrained(tmp_path / "again")
    again = getattr(transformers, auto).from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    assert torch.equal(outputs(again, batch), expected)


def test_generation_with_a_cache_is_the_same_after_loading(tmp_path):
    small, batch = pruned(llama, params=0.8)
    save_pretrained(small, tmp_path / "out")
    found = mipp.from_pretrained(tmp_path / "out").eval()
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True}
    assert torch.equal(small.generate(**batch, **options), found.generate(**batch, **options))


def test_equal_widths_are_a_stock_folder(tmp_path):
    small, batch = pruned(llama, ["model.embed_tokens"], params=0.9, uniform=True)
    assert save_pretrained(small, tmp_path / "out")
    assert not (tmp_path / "out/modeling_pruned.py").exists()
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for found in (stock, mipp.from_pretrained(tmp_path / "out").eval()):
        assert torch.equal(outputs(found, batch), outputs(small, batch))


def test_a_stock_folder_whose_weights_have_other_names_in_it_loads(tmp_path):
    small, batch = pruned(neox, ["gpt_neox.embed_in", "*attention*"], params=0.9, uniform=True)
    assert save_pretrained(small, tmp_path / "out")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for found in (stock, mipp.from_pretrained(tmp_path / "out").eval()):
        assert torch.equal(outputs(found, batch), outputs(small, batch))


@pytest.mark.parametrize("uniform", [False, True])
def test_a_folder_that_lacks_weights_is_refused(uniform, tmp_path):
    """transformers would draw them at random."""
    small, _ = pruned(llama, ["model.embed_tokens"], params=0.9, uniform=uniform)
    assert save_pretrained(small, tmp_path / "out") == uniform
    weights = load_file(tmp_path / "out/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "out/model.safetensors", {"format": "pt"})
    with pytest.raises(mipp.PlanMismatchError, match=r"lacks 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        mipp.from_pretrained(tmp_path / "out")


class Blocks(transformers.PreTrainedModel):
    """A model whose layers read their widths from `per_layer_config`, as a few classes of transformers do."""

    config_class = transformers.LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        widths = [layer.intermediate_size for layer in config.per_layer_config]
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = torch.nn.ModuleList(self.block(config.hidden_size, width) for width in widths)
        self.post_init()

    @staticmethod
    def block(size, width):
        return torch.nn.Sequential(torch.nn.Linear(size, width), torch.nn.ReLU(), torch.nn.Linear(width, size))

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        return transformers.modeling_outputs.CausalLMOutput(logits=x)


def test_widths_of_layers_are_told_by_the_configuration_where_a_class_reads_them(tmp_path):
    if not hasattr(transformers.LlamaConfig(), "per_layer_config"):
        pytest.skip("this version of transformers has none")

    def make():
        config = transformers.LlamaConfig(vocab_size=64, **SMALL)
        return Blocks(config), lambda n: {"input_ids": torch.randint(0, 64, (n, 12))}

    small, batch = pruned(make, ["embed"], widths={"layers.0.0": 20, "layers.1.0": 31})
    assert [layer.intermediate_size for layer in small.config.per_layer_config] == [20, 31]
    small.save_pretrained(tmp_path / "out")
    assert torch.equal(outputs(Blocks.from_pretrained(tmp_path / "out").eval(), batch), outputs(small, batch))


def test_a_loaded_model_is_saved_and_pruned_again(tmp_path):
    small, batch = pruned(llama, params=0.8)
    save_pretrained(small, tmp_path / "out")
    again = mipp.from_pretrained(tmp_path / "out").eval()
    data = [{"input_ids": torch.randint(0, 64, (8, 12))} for _ in range(3)]
    smaller = mipp.prune(copy.deepcopy(again), data, mipp.Budget(params=0.9), progress=False).model.eval()
    save_pretrained(smaller, tmp_path / "third")
    assert torch.equal(outputs(mipp.from_pretrained(tmp_path / "third").eval(), batch), outputs(smaller, batch))


def test_what_is_no_such_folder_or_model_is_refused(tmp_path):
    with pytest.raises(mipp.PlanMismatchError, match="mipp prune hf"):
        mipp.from_pretrained(tmp_path)
    with pytest.raises(mipp.MippError, match=r"Use Result\.save"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_in_the_settings_of_a_module_are_checked_there():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    model[0].config = transformers.BertConfig(num_attention_heads=4, hidden_size=8)
    _Widths({}, {"0": {"config.num_attention_heads": 2, "in_features": 4}}).check(model)
    for wrong in ("config.heads", "config.hidden_act", "settings.num_attention_heads"):
        with pytest.raises(ValueError, match=f"has no size '{wrong}'"):
            _Widths({}, {"0": {wrong: 2}}).check(model)
