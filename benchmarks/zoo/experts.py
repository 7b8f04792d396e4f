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
    "DeepSeek-V3, default experts",
    tokens("input_ids"),
    {
        "model.embed_tokens": 16,
        # ranks of queries, and of keys and values; whole heads
        **in_layers(
            "model.layers", {"self_attn.q_a_proj": 12, "self_attn.q_b_proj": 4, "self_attn.kv_a_proj_with_mqa": 8}
        ),
        "model.layers.0.mlp.gate_proj": 32,
        "model.layers.1.mlp.experts.gate_up_proj": 12,
        "model.layers.1.mlp.shared_experts.gate_proj": 12,
    },
)
def deepseek_v3() -> nn.Module:
    sizes = {
        "moe_intermediate_size": 12, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "kv_lora_rank": 8,
        "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4, "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    }  # fmt: skip
    return decoder(hf.DeepseekV3ForCausalLM, hf.DeepseekV3Config, **sizes, **ROUTED)
