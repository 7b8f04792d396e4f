"""Branches that merge into one convolution, and convolutional networks shaped like transformers."""

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.attention import Mlp
from benchmarks.zoo.registry import image, pattern


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


class RepVGGBlock(nn.Module):
    """3x3, 1x1 and identity branches, added."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.nonlinearity = nn.ReLU()
        self.rbr_identity = nn.BatchNorm2d(inputs) if outputs == inputs and stride == 1 else None
        self.rbr_dense = conv_bn(inputs, outputs, 3, stride, 1)
        self.rbr_1x1 = conv_bn(inputs, outputs, 1, stride, 0)

    def forward(self, inputs: Tensor) -> Tensor:
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.nonlinearity(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out)


@pattern(
    "RepVGG",
    image(3, 16),
    {
        "0.rbr_dense.conv": 8,
        "1.rbr_dense.conv": 12,  # its channels meet those of blocks 2 and 3 through their identity branches
        "4.rbr_dense.conv": 16,
    },
)
def repvgg() -> nn.Module:
    return nn.Sequential(
        RepVGGBlock(3, 8, 2), RepVGGBlock(8, 12, 2), RepVGGBlock(12, 12), RepVGGBlock(12, 12), RepVGGBlock(12, 16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 10),
    )  # fmt: skip


class ChannelLayerNorm(nn.Module):
    """Layer norm over the last or the second axis, the second by hand (ConvNeXt)."""

    def __init__(self, normalized_shape: int, data_format: str = "channels_last") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps, self.data_format = 1e-6, data_format
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = ChannelLayerNorm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(0.1 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        if self.gamma is not None:
            x = self.gamma * x
        x = x.permute(0, 3, 1, 2)
        return shortcut + x


class ConvNeXt(nn.Module):
    def __init__(self, dims: tuple[int, int]) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 2, 2), ChannelLayerNorm(dims[0], "channels_first"))
        down = nn.Sequential(ChannelLayerNorm(dims[0], "channels_first"), nn.Conv2d(dims[0], dims[1], 2, 2))
        self.downsample_layers = nn.ModuleList([stem, down])
        self.stages = nn.ModuleList(nn.Sequential(ConvNeXtBlock(dim), ConvNeXtBlock(dim)) for dim in dims)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean([-2, -1])))


@pattern(
    "ConvNeXt",
    image(3, 16),
    {
        "downsample_layers.0.0": 12,  # the stream: dwconv and pwconv2 of both blocks, layer scale, norms
        "downsample_layers.1.1": 16,
        "stages.0.0.pwconv1": 48, "stages.0.1.pwconv1": 48, "stages.1.0.pwconv1": 64, "stages.1.1.pwconv1": 64,
    },
)  # fmt: skip
def convnext() -> nn.Module:
    return ConvNeXt((12, 16))


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the second axis, by permuting there and back."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return torch.permute(x, self.dims)


class CNBlock(nn.Module):
    """The ConvNeXt block as one sequence of modules."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim, bias=True), Permute([0, 2, 3, 1]),
            partial(nn.LayerNorm, eps=1e-6)(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim),
            Permute([0, 3, 1, 2]),
        )  # fmt: skip
        self.layer_scale = nn.Parameter(torch.ones(dim, 1, 1) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        result = self.layer_scale * self.block(x)
        result += x
        return result


@pattern("ConvNeXt, permute modules", image(3, 16), {"0": 12, "2.block.3": 48, "4": 16, "5.block.3": 64})
def convnext_permute() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 4, 4), LayerNorm2d(12, eps=1e-6), CNBlock(12),
        LayerNorm2d(12, eps=1e-6), nn.Conv2d(12, 16, 2, 2), CNBlock(16),
        nn.AdaptiveAvgPool2d(1), LayerNorm2d(16, eps=1e-6), nn.Flatten(1), nn.Linear(16, 10),
    )  # fmt: skip


class Pooling(nn.Module):
    """A token mixer without parameters: the average of the neighbours less the token itself."""

    def __init__(self, pool_size: int = 3) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(pool_size, stride=1, padding=pool_size // 2, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) - x


class ConvMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PoolFormerBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.token_mixer = nn.GroupNorm(1, dim), Pooling()
        self.norm2, self.mlp = nn.GroupNorm(1, dim), ConvMlp(dim, hidden)
        self.layer_scale_1 = nn.Parameter(0.1 * torch.ones(dim))
        self.layer_scale_2 = nn.Parameter(0.1 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1.unsqueeze(-1).unsqueeze(-1) * self.token_mixer(self.norm1(x))
        return x + self.layer_scale_2.unsqueeze(-1).unsqueeze(-1) * self.mlp(self.norm2(x))


class PoolFormer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 12, 7, 4, 2)
        self.network = nn.ModuleList(
            [PoolFormerBlock(12, 24), nn.Conv2d(12, 16, 3, stride=2, padding=1), PoolFormerBlock(16, 32)]
        )
        self.norm = nn.GroupNorm(1, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for block in self.network:
            x = block(x)
        return self.head(self.norm(x).mean([-2, -1]))


@pattern(
    "PoolFormer",
    image(3, 32),
    {"patch_embed": 12, "network.0.mlp.fc1": 24, "network.1": 16, "network.2.mlp.fc1": 32},
)
def poolformer() -> nn.Module:
    return PoolFormer()


class MixerBlock(nn.Module):
    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(dim, eps=1e-6), Mlp(tokens, 12)
        self.norm2, self.mlp_channels = nn.LayerNorm(dim, eps=1e-6), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class MlpMixer(nn.Module):
    def __init__(self, dim: int = 16, patch: int = 4, size: int = 16) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock(dim, (size // patch) ** 2) for _ in range(2)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


@pattern(
    "MLP-Mixer",
    image(3, 16),
    {
        "proj": 16,  # the stream
        "blocks.0.mlp_tokens.fc1": 12, "blocks.0.mlp_channels.fc1": 64,
        "blocks.1.mlp_tokens.fc1": 12, "blocks.1.mlp_channels.fc1": 64,
    },
)  # fmt: skip
def mlp_mixer() -> nn.Module:
    return MlpMixer()


class SpatialGatingBlock(nn.Module):
    """Half of the hidden channels, mixed over the tokens, gate the other half (gMLP)."""

    def __init__(self, dim: int, hidden: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj_in = nn.Linear(dim, hidden)
        self.gate_norm, self.gate_proj = nn.LayerNorm(hidden // 2), nn.Linear(tokens, tokens)
        self.proj_out = nn.Linear(hidden // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.proj_in(self.norm(x))).chunk(2, dim=-1)
        v = self.gate_proj(self.gate_norm(v).transpose(-1, -2))
        return x + self.proj_out(u * v.transpose(-1, -2))


@pattern("gMLP", image(3, 16), {"0": 12, "3.proj_in": 16})
def gmlp() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 4, 4), nn.Flatten(2), Permute([0, 2, 1]), SpatialGatingBlock(12, 32, 16),
        nn.LayerNorm(12), Permute([0, 2, 1]), nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.Linear(12, 10),
    )  # fmt: skip
