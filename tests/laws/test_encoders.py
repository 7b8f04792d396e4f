"""Attention of transformers as its models write it: heads, feed-forward units and streams are nodes."""

import pytest
import torch
from benchmarks.zoo.checks import cut_equals_masked, random_plan

import mipp
from mipp.data.calibration import as_call

transformers = pytest.importorskip("transformers")

TEXT = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
SMALL = {**TEXT, "intermediate_size": 24, "max_position_embeddings": 32}
RELATIVE = {"relative_attention": True, "pos_att_type": "c2p|p2c", "max_relative_positions": 16}
SPEECH = {
    "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
    "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 8, "conv_depthwise_kernel_size": 3,
}  # fmt: skip
FALCON = {**TEXT, "alibi": False, "new_decoder_architecture": False, "multi_query": False}
GROUPED = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
BART = {
    "vocab_size": 30, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
CONFORMER = {**TEXT, **SPEECH, "intermediate_size": 24, "position_embeddings_type": "relative"}
SAM = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    "output_channels": 8, "global_attn_indexes": [1], "window_size": 2, "num_pos_feats": 8, "mlp_dim": 24,
}  # fmt: skip
WAV2VEC2 = {**TEXT, **SPEECH, "intermediate_size": 24, "classifier_proj_size": 12, "mask_time_length": 2}
IMAGES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}

# name: settings of the configuration, and nodes of some groups
MODELS = {
    "Bloom": ({"vocab_size": 30, "hidden_size": 16, "n_layer": 1, "n_head": 4}, {"h.0.mlp.dense_h_to_4h": 64}),
    "Falcon": (FALCON, {"h.0.self_attention.query_key_value": 4, "h.0.mlp.dense_h_to_4h": 64}),
    "Falcon, grouped": (GROUPED, {"h.0.self_attention.query_key_value": 2, "h.0.mlp.dense_h_to_4h": 64}),
    "Falcon, one head of keys": (
        {**FALCON, "multi_query": True}, {"h.0.self_attention.query_key_value": 4, "h.0.mlp.dense_h_to_4h": 64},
    ),
    "Phi3": (
        {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}, {"layers.0.self_attn.qkv_proj": 2},
    ),
    "Deberta": ({**SMALL, **RELATIVE}, {"encoder.layer.0.attention.self.in_proj": 4}),
    "DebertaV2": (
        {**SMALL, **RELATIVE, "share_att_key": True, "position_buckets": 8},
        {"encoder.layer.0.attention.self.query_proj": 4, "encoder.layer.0.intermediate.dense": 24},
    ),
    "XLNet": (
        {"vocab_size": 30, "d_model": 16, "n_layer": 1, "n_head": 4, "d_inner": 24},
        {"layer.0.rel_attn": 4, "layer.0.ff.layer_1": 24},
    ),
    "LayoutLM": (SMALL, {"encoder.layer.0.attention.self.query": 4, "encoder.layer.0.intermediate.dense": 24}),
    "Bart": (BART, {"encoder.layers.0.self_attn.q_proj": 4, "decoder.layers.0.encoder_attn.q_proj": 4}),
    "Wav2Vec2Conformer": (
        CONFORMER, {"encoder.layers.0.self_attn.linear_q": 4, "encoder.layers.0.conv_module.pointwise_conv1": 16},
    ),
    "Dinov2": (IMAGES, {"encoder.layer.0.attention.q_proj": 4, "encoder.layer.0.mlp.fc1": 64}),
    "SamVision": (
        SAM, {"patch_embed.projection": 16, "layers.0.attn.qkv": 4, "layers.1.attn.qkv": 4, "layers.0.mlp.lin1": 24},
    ),
}  # fmt: skip


def build(name: str):
    kind = name.partition(",")[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "SamVision":
            from transformers.models.sam.modeling_sam import SamVisionEncoder

            model = SamVisionEncoder(transformers.SamVisionConfig(**MODELS[name][0]))
        else:
            config = getattr(transformers, f"{kind}Config")(**MODELS[name][0])
            model = getattr(transformers, f"{kind}Model")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def inputs(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if name.startswith("Wav2Vec2"):
        return {"input_values": torch.randn(2, 400, generator=generator, dtype=torch.float64)}
    if name in ("Dinov2", "SamVision"):
        side = MODELS[name][0]["image_size"]
        return {"pixel_values": torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)}
    return {"input_ids": torch.randint(1, 30, (2, 7), generator=generator)}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_heads_and_units_are_nodes_and_cutting_equals_masking(name):
    model, batch = build(name), inputs(name)
    graph = mipp.inspect(model, batch).graph
    found = {group: graph.groups[group].size if group in graph.groups else 0 for group in MODELS[name][1]}
    assert found == MODELS[name][1]
    cut_equals_masked(random_plan(graph, model), model, as_call(batch))


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
def test_the_mask_of_training_is_cut_with_the_stream_of_wav2vec2(padded):
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForSequenceClassification(transformers.Wav2Vec2Config(**WAV2VEC2)).double()
    batch = {"input_values": torch.randn(2, 2000, dtype=torch.float64)}
    if padded:
        batch["attention_mask"] = (torch.arange(2000) < torch.tensor([[2000], [1000]])).long()
    group = mipp.inspect(model, batch).graph.groups["wav2vec2.feature_projection.projection"]
    assert group.size == 4
    assert "wav2vec2.masked_spec_embed" in {s.tensor for s in group.slices}
    small = mipp.prune(model, [batch], mipp.Budget(nodes=0.5), progress=False).model.train()
    assert small(**batch).logits.shape == (2, 2)


@pytest.mark.slow
def test_the_mask_token_of_dinov2_freezes_no_stream():
    torch.manual_seed(0)
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**IMAGES, num_labels=3)).double()
    found = mipp.inspect(model, {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)})
    assert found.graph.groups["dinov2.embeddings.patch_embeddings.projection"].size == 16
    assert {f.name for f in found.frozen} == {"classifier", "dinov2.embeddings.mask_token"}


SEGFORMER = {
    "num_encoder_blocks": 3, "depths": [1, 1, 1], "sr_ratios": [4, 2, 1], "hidden_sizes": [8, 12, 16],
    "patch_sizes": [7, 3, 3], "strides": [4, 2, 2], "num_attention_heads": [1, 2, 4], "mlp_ratios": [2, 2, 2],
    "decoder_hidden_size": 12, "num_labels": 3,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SegformerForSemanticSegmentation", "Dinov2ForImageClassification"])
def test_streams_and_heads_of_image_encoders_are_cut_to_half_of_the_macs(kind):
    torch.manual_seed(0)
    is_segformer = kind.startswith("Segformer")
    config = transformers.SegformerConfig(**SEGFORMER) if is_segformer else transformers.Dinov2Config(**IMAGES)
    model = getattr(transformers, kind)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = {"pixel_values": torch.randn(2, 3, *[32 if is_segformer else 16] * 2, dtype=torch.float64)}
    model = model.double().eval()
    graph = mipp.inspect(model, batch).graph
    streams = (
        {f"segformer.stages.{stage}.patch_embeddings.proj": size for stage, size in enumerate([8, 12, 16])}
        if is_segformer
        else {"dinov2.embeddings.patch_embeddings.projection": 16}
    )
    heads = (
        {f"segformer.stages.{stage}.blocks.0.attention.q_proj": 2**stage for stage in (1, 2)} if is_segformer else {}
    )
    assert {name: graph.groups[name].size for name in (*streams, *heads)} == streams | heads
    cut_equals_masked(random_plan(graph, model), model, as_call(batch))
    cost = mipp.prune(model, [batch], mipp.Budget(macs=0.5), mipp.methods.L1(), progress=False).report
    assert cost.after.macs <= 0.5 * cost.before.macs
