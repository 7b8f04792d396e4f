"""Networks whose weights are computed: modulated for each sample, made of splines, normalised in groups."""

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from benchmarks.zoo.registry import gauss, image, pattern


class ModulatedConv(nn.Module):
    """A convolution whose inputs a style scales for each sample, with its outputs normalised (StyleGAN2)."""

    def __init__(self, inputs: int, outputs: int, style: int, *, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) / 3)
        self.style, self.bias = nn.Linear(style, inputs), nn.Parameter(torch.zeros(outputs))
        self.demodulate = demodulate

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = self.weight[None] * (self.style(z) + 1).view(n, 1, c, 1, 1)
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight.reshape(-1, c, 3, 3), padding=1, groups=n)
        return y.reshape(n, -1, h, w) + self.bias[:, None, None]


class Synthesis(nn.Module):
    """A mapping network, a learned start, modulated convolutions and the images of two sizes added up."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(8, 24), nn.LeakyReLU(0.2), nn.Linear(24, 16), nn.LeakyReLU(0.2))
        self.start = nn.Parameter(torch.randn(1, 16, 4, 4))
        self.first, self.second = ModulatedConv(16, 12, 16), ModulatedConv(12, 10, 16)
        self.small, self.large = (ModulatedConv(c, 3, 16, demodulate=False) for c in (12, 10))

    def forward(self, z: Tensor) -> Tensor:
        style = self.mapping(z)
        x = F.leaky_relu(self.first(self.start.expand(len(z), -1, -1, -1), style), 0.2)
        picture = self.small(x, style)
        x = F.leaky_relu(self.second(F.interpolate(x, scale_factor=2), style), 0.2)
        return F.interpolate(picture, scale_factor=2) + self.large(x, style)


@pattern(
    "StyleGAN2, synthesis",
    gauss(8),
    {
        "mapping.0": 24,
        "mapping.2": 16,  # the style that all convolutions read
        "first.style": 16,  # the start
        "first": 12,  # the style of what reads it is as wide
        "second": 10,
    },
)
def stylegan2() -> nn.Module:
    return Synthesis()


class SplineLayer(nn.Module):
    """A sum of functions of single inputs: a base, and splines with a scale for each pair (KAN)."""

    def __init__(self, inputs: int, outputs: int, number: int = 5) -> None:
        super().__init__()
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, number) / 3)
        self.spline_scaler = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.register_buffer("grid", torch.linspace(-1, 1, number))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((2 * (torch.tanh(x).unsqueeze(-1) - self.grid)) ** 2))
        weight = (self.spline_weight * self.spline_scaler.unsqueeze(-1)).view(len(self.base_weight), -1)
        return F.linear(F.silu(x), self.base_weight) + F.linear(bumps.view(x.size(0), -1), weight)


@pattern("KAN", gauss(6), {"0": 16, "1": 12})
def kan() -> nn.Module:
    return nn.Sequential(SplineLayer(6, 16), SplineLayer(16, 12), SplineLayer(12, 4))


@pattern(
    "SegFormer",
    image(3, 32),
    {
        # the stream of a stage goes with its sequence reductions, whose output is told the stream's width
        "segformer.stages.0.patch_embeddings.proj": 12,
        "segformer.stages.1.patch_embeddings.proj": 16,
        "segformer.stages.0.blocks.0.mlp.fc1": 24,
        "segformer.stages.1.blocks.0.mlp.fc1": 32,
        "segformer.stages.0.blocks.0.attention.q_proj": 2,  # heads
        "segformer.stages.1.blocks.0.attention.q_proj": 2,
        "decode_head.linear_projections.0.proj": 16,
        "decode_head.linear_projections.1.proj": 16,
        "decode_head.linear_fuse": 16,
    },
)
def segformer() -> nn.Module:
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], hidden_sizes=[12, 16], num_attention_heads=[2, 2], sr_ratios=[2, 1],
        patch_sizes=[3, 3], strides=[2, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=4,
    )  # fmt: skip
    return hf.SegformerForSemanticSegmentation(config)


@pattern(
    "wav2vec 2.0",
    gauss(400),
    {
        "wav2vec2.feature_extractor.conv_layers.0.conv": 12,
        "wav2vec2.feature_extractor.conv_layers.1.conv": 12,
        "wav2vec2.feature_projection.projection": 8,  # the stream: the same position of the two groups of positions
        "wav2vec2.encoder.layers.0.attention.q_proj": 4,
        "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense": 24,
    },
)
def wav2vec2() -> nn.Module:
    config = hf.Wav2Vec2Config(
        vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24,
        conv_dim=(12, 12), conv_stride=(5, 4), conv_kernel=(10, 8), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, apply_spec_augment=False,
    )  # fmt: skip
    return hf.Wav2Vec2ForCTC(config)
