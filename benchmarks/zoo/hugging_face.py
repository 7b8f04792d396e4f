"""Transformers as the `transformers` package builds them, from small configurations and without weights."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from benchmarks.zoo.registry import Inputs, image, pattern

WORDS = 40
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
DECODER = {**SIZES, "num_key_value_heads": 2, "vocab_size": WORDS, "max_position_embeddings": 32, "use_cache": False}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokens(*names: str, length: int = 7) -> Inputs:
    """A dict of token sequences of shape [samples, length]."""
    return lambda n, g: {name: torch.randint(3, WORDS, (n, length), generator=g) for name in names}


def pixels(size: int) -> Inputs:
    picture = image(3, size)
    return lambda n, g: {"pixel_values": picture(n, g)}


def in_layers(path: str, groups: Mapping[str, int], count: int = 2) -> dict[str, int]:
    """The same groups in every layer."""
    return {f"{path}.{i}.{name}": nodes for i in range(count) for name, nodes in groups.items()}


class Logits(nn.Module):
    """Returns nothing but the logits of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.model(**inputs).logits


# --- images -----------------------------------------------------------------------------------------------------------

VIT = {**SIZES, "image_size": 16, "patch_size": 4}
ENCODER_GROUPS = {"attention.q_proj": 4, "mlp.fc1": 32}


@pattern(
    "ViT",
    pixels(16),
    {"vit.embeddings.patch_embeddings.projection": 16, **in_layers("vit.layers", ENCODER_GROUPS)},
)
def vit() -> nn.Module:
    return hf.ViTForImageClassification(hf.ViTConfig(**VIT, num_labels=5))


@pattern(
    "DeiT",
    pixels(16),
    {"deit.embeddings.patch_embeddings.projection": 16, **in_layers("deit.layers", ENCODER_GROUPS)},
)
def deit() -> nn.Module:
    return hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**VIT, num_labels=5))


@pattern(
    "ViT, frozen but for its head",
    pixels(16),
    {"vit.embeddings.patch_embeddings.projection": 16, **in_layers("vit.layers", ENCODER_GROUPS)},
)
def frozen_vit() -> nn.Module:
    model = vit()
    for parameter in model.vit.parameters():
        parameter.requires_grad_(False)
    return model


@pattern(
    "Swin",
    pixels(32),
    {
        "swin.embeddings.patch_embeddings.projection": 16,
        "swin.encoder.layers.0.downsample.reduction": 32,  # the stream of the second stage
        **in_layers("swin.encoder.layers.0.blocks", ENCODER_GROUPS),
        **in_layers("swin.encoder.layers.1.blocks", {"attention.q_proj": 4, "mlp.fc1": 64}),
    },
)
def swin() -> nn.Module:
    config = hf.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[4, 4], window_size=4, mlp_ratio=2,
        num_labels=5,
    )  # fmt: skip
    return hf.SwinForImageClassification(config)


CLIP_GROUPS = {"self_attn.q_proj": 4, "mlp.fc1": 32}


@pattern(
    "CLIP",
    lambda n, g: tokens("input_ids")(n, g) | pixels(16)(n, g),
    # both streams are outputs of the model, as last_hidden_state of its two halves
    in_layers("text_model.encoder.layers", CLIP_GROUPS) | in_layers("vision_model.encoder.layers", CLIP_GROUPS),
)
def clip() -> nn.Module:
    text = {**SIZES, **SPECIAL, "vocab_size": WORDS, "max_position_embeddings": 16}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=VIT, projection_dim=12))


@pattern(
    "CLIP, image classification",
    pixels(16),
    {
        "vision_model.embeddings.patch_embedding": 16,
        **in_layers("vision_model.encoder.layers", CLIP_GROUPS),
    },
)
def clip_classifier() -> nn.Module:
    return hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=VIT, projection_dim=12, num_labels=5))


# --- encoders ---------------------------------------------------------------------------------------------------------

BERT = {**SIZES, "vocab_size": WORDS, "max_position_embeddings": 16, "pad_token_id": 0}
BERT_GROUPS = {"attention.self.query": 4, "intermediate.dense": 32}


def padded(samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Sequences of length 7 of which the last two tokens of the first sample are padding."""
    batch = tokens("input_ids")(samples, generator)
    attention_mask = torch.ones_like(batch["input_ids"])
    attention_mask[0, -2:] = 0
    return {**batch, "attention_mask": attention_mask}


@pattern(
    "BERT, masked words",
    padded,
    {
        "bert.embeddings.word_embeddings": 16,  # with the transform before the tied decoder
        **in_layers("bert.encoder.layer", BERT_GROUPS),
    },
)
def bert() -> nn.Module:
    return hf.BertForMaskedLM(hf.BertConfig(**BERT, attn_implementation="eager"))


@pattern(
    "BERT, classification",
    padded,
    {
        "bert.embeddings.word_embeddings": 16,
        "bert.pooler.dense": 16,
        **in_layers("bert.encoder.layer", BERT_GROUPS),
    },
)
def bert_classifier() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(**BERT))


@pattern(
    "DistilBERT",
    tokens("input_ids"),
    {
        "distilbert.embeddings.word_embeddings": 16,
        "pre_classifier": 16,
        **in_layers("distilbert.transformer.layer", {"attention.q_lin": 4, "ffn.lin1": 32}),
    },
)
def distilbert() -> nn.Module:
    config = hf.DistilBertConfig(
        dim=16, n_layers=2, n_heads=4, hidden_dim=32, vocab_size=WORDS, max_position_embeddings=16
    )
    return hf.DistilBertForSequenceClassification(config)


# --- decoders ---------------------------------------------------------------------------------------------------------


def gpt2_model(**options: Any) -> nn.Module:
    config = hf.GPT2Config(
        n_embd=16, n_layer=2, n_head=4, vocab_size=WORDS, n_positions=16, use_cache=False, **SPECIAL, **options
    )
    return hf.GPT2LMHeadModel(config)


GPT2_GROUPS = {
    "transformer.wte": 16,  # the stream; the output head is tied to it
    **in_layers("transformer.h", {"attn.c_attn": 4, "mlp.c_fc": 64}),
}


@pattern("GPT-2", tokens("input_ids"), GPT2_GROUPS)
def gpt2() -> nn.Module:
    return gpt2_model()


@pattern("GPT-2, eager attention", tokens("input_ids"), GPT2_GROUPS)
def gpt2_eager() -> nn.Module:
    return gpt2_model(attn_implementation="eager")


@pattern("GPT-2 in bfloat16", tokens("input_ids"), GPT2_GROUPS)
def gpt2_half() -> nn.Module:
    return gpt2_model().to(torch.bfloat16)


# a node of the attention is one key-value head with the two query heads that read it
LLAMA_GROUPS = {"model.embed_tokens": 16, **in_layers("model.layers", {"self_attn.k_proj": 2, "mlp.gate_proj": 32})}


def decoder(model: Callable[[Any], nn.Module], config: Callable[..., Any], **options: Any) -> nn.Module:
    return model(config(**{**DECODER, **SPECIAL, **options}))


@pattern("Llama", tokens("input_ids"), LLAMA_GROUPS)
def llama() -> nn.Module:
    return decoder(hf.LlamaForCausalLM, hf.LlamaConfig)


@pattern("Llama, eager attention", tokens("input_ids", length=5), LLAMA_GROUPS)
def llama_eager() -> nn.Module:
    return decoder(hf.LlamaForCausalLM, hf.LlamaConfig, attn_implementation="eager", tie_word_embeddings=True)


@pattern("Llama, key-value cache on", tokens("input_ids"), LLAMA_GROUPS)
def llama_cache() -> nn.Module:
    return decoder(hf.LlamaForCausalLM, hf.LlamaConfig, use_cache=True)


@pattern("Llama, gradient checkpointing", tokens("input_ids"), LLAMA_GROUPS)
def llama_checkpointing() -> nn.Module:
    model = llama()
    model.activation_checkpointing_enable()
    return model


@pattern("Mistral", tokens("input_ids"), LLAMA_GROUPS)
def mistral() -> nn.Module:
    return decoder(hf.MistralForCausalLM, hf.MistralConfig, sliding_window=4)


@pattern("Qwen2", tokens("input_ids"), LLAMA_GROUPS)
def qwen2() -> nn.Module:
    return decoder(hf.Qwen2ForCausalLM, hf.Qwen2Config)


@pattern("Qwen3", tokens("input_ids"), LLAMA_GROUPS)  # its norms of queries and keys run inside of each head
def qwen3() -> nn.Module:
    return decoder(hf.Qwen3ForCausalLM, hf.Qwen3Config, head_dim=6)


@pattern(
    "Mixtral",
    tokens("input_ids"),
    {
        "model.embed_tokens": 16,
        # all experts stand in one parameter, so that hidden unit i of all of them is one node
        **in_layers("model.layers", {"self_attn.k_proj": 2, "mlp.experts.gate_up_proj": 32}),
    },
)
def mixtral() -> nn.Module:
    return decoder(hf.MixtralForCausalLM, hf.MixtralConfig, num_local_experts=4, experts_implementation="eager")


@pattern(
    "Qwen3-MoE",
    tokens("input_ids"),
    {
        "model.embed_tokens": 16,
        **in_layers("model.layers", {"self_attn.k_proj": 2, "mlp.experts.gate_up_proj": 12}),
    },
)
def qwen3_moe() -> nn.Module:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 4}
    return decoder(hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, **sizes, experts_implementation="eager")


# --- encoders with decoders -------------------------------------------------------------------------------------------


def t5_model(**options: Any) -> nn.Module:
    config = hf.T5Config(
        d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, vocab_size=WORDS, use_cache=False,
        decoder_start_token_id=0, **{**SPECIAL, **options},
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config)


def t5_groups(hidden: str) -> dict[str, int]:
    """Heads and hidden units of T5; one position bias couples the heads of all layers of a kind."""
    heads = ("encoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.0.SelfAttention")
    return {
        **{f"{name}.q": 4 for name in (*heads, "decoder.block.0.layer.1.EncDecAttention")},
        **in_layers("encoder.block", {f"layer.1.DenseReluDense.{hidden}": 32}),
        **in_layers("decoder.block", {f"layer.2.DenseReluDense.{hidden}": 32}),
    }


# the stream is an output of the model, as encoder_last_hidden_state
@pattern("T5", tokens("input_ids", "decoder_input_ids"), t5_groups("wi"))
def t5() -> nn.Module:
    return t5_model()


@pattern(
    "T5 1.1, logits only",
    tokens("input_ids", "decoder_input_ids"),
    {"model.shared": 16, **{f"model.{name}": nodes for name, nodes in t5_groups("wi_0").items()}},
)
def t5_gated() -> nn.Module:
    return Logits(t5_model(feed_forward_proj="gated-gelu", tie_word_embeddings=False))


WHISPER_DECODER = {"self_attn.q_proj": 4, "encoder_attn.q_proj": 4, "fc1": 32}


@pattern(
    "Whisper",
    lambda n, g: {
        "input_features": torch.randn(n, 8, 24, generator=g),
        "decoder_input_ids": torch.randint(3, WORDS, (n, 5), generator=g),
    },
    {
        "model.encoder.conv1": 16,  # the stream behind conv2 is an output, as encoder_last_hidden_state
        "model.decoder.embed_tokens": 16,
        **in_layers("model.encoder.layers", {"self_attn.q_proj": 4, "fc1": 32}),
        **in_layers("model.decoder.layers", WHISPER_DECODER),
    },
)
def whisper() -> nn.Module:
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
             (("layers", 2), ("attention_heads", 4), ("ffn_dim", 32))}  # fmt: skip
    config = hf.WhisperConfig(
        d_model=16, vocab_size=WORDS, num_mel_bins=8, max_source_positions=12, max_target_positions=16,
        decoder_start_token_id=1, use_cache=False, **sizes, **SPECIAL,
    )  # fmt: skip
    return hf.WhisperForConditionalGeneration(config)
