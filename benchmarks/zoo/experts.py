"""Mixtures of experts as `transformers` runs them by default: one grouped product for all experts.

Its kernel takes rows of whole blocks of 16 bytes, so that the hidden units of an expert stay in multiples of four.
"""

import transformers as hf
from torch import nn

from benchmarks.zoo.hugging_face import decoder, in_layers, tokens
from benchmarks.zoo.registry import pattern

ROUTED = {"num_experts_per_tok": 2}
HEADS = {"self_attn.k_proj": 2}  # each with its two heads of queries
# hidden unit i of all experts is one node, and multiples of four of them go
UNITS = {"mlp.experts.gate_up_proj": 12}


@pattern(
    "Mixtral, default experts",
    tokens("input_ids"),
    {"model.embed_tokens": 16, **in_layers("model.layers", {**HEADS, "mlp.experts.gate_up_proj": 32})},
)
def mixtral() -> nn.Module:
    return decoder(hf.MixtralForCausalLM, hf.MixtralConfig, num_local_experts=4, **ROUTED)


@pattern(
    "Qwen3-MoE, default experts",
    tokens("input_ids"),
    {"model.embed_tokens": 16, **in_layers("model.layers", {**HEADS, **UNITS})},
)
def qwen3_moe() -> nn.Module:
    sizes = {"num_experts": 4, "moe_intermediate_size": 12, "head_dim": 4, **ROUTED}
    return decoder(hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, **sizes)


@pattern(
    "gpt-oss, default experts",
    tokens("input_ids"),
    {"model.embed_tokens": 16, **in_layers("model.layers", {**HEADS, "mlp.experts.gate_up_proj": 32})},
)
def gpt_oss() -> nn.Module:
    return decoder(hf.GptOssForCausalLM, hf.GptOssConfig, num_local_experts=4, head_dim=4, **ROUTED)


@pattern(
    "DeepSeek's router and shared experts (GLM-4-MoE)",
    tokens("input_ids"),
    {
        "model.embed_tokens": 16,
        **in_layers("model.layers", HEADS),
        "model.layers.0.mlp.gate_proj": 32,
        "model.layers.1.mlp.experts.gate_up_proj": 12,
        "model.layers.1.mlp.shared_experts.gate_proj": 12,
    },
)
def shared_experts() -> nn.Module:
    sizes = {
        "moe_intermediate_size": 12, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "head_dim": 4,
    }  # fmt: skip
    return decoder(hf.Glm4MoeForCausalLM, hf.Glm4MoeConfig, **sizes, **ROUTED)
