"""Attention whose heads fill the stream and read their width off it, latent attention, a recurrence by steps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.attention import WORDS, Mlp, tokens
from benchmarks.zoo.dense_prediction import Conv
from benchmarks.zoo.registry import image, pattern


class WindowAttention(nn.Module):
    """Heads inside of windows with a bias for every relative place; `C // heads` is the width of a head."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.window, self.scale = heads, window, (dim // heads) ** -0.5
        self.table = nn.Parameter(0.1 * torch.randn((2 * window - 1) ** 2, heads))
        places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        apart = places[:, None] - places[None] + window - 1
        self.register_buffer("places", apart[..., 0] * (2 * window - 1) + apart[..., 1])
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        scores = (q * self.scale) @ k.mT + self.table[self.places.view(-1)].view(N, N, -1).permute(2, 0, 1)
        if mask is not None:
            windows = mask.shape[0]
            scores = scores.view(B // windows, windows, self.num_heads, N, N) + mask[None, :, None]
            scores = scores.view(-1, self.num_heads, N, N)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, C))


class WindowBlock(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.side, self.window, self.shift = side, window, shift
        self.norm1, self.attn = nn.LayerNorm(dim), WindowAttention(dim, heads, window)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 2 * dim)
        regions = torch.zeros(1, side, side, 1)
        for number, start in enumerate((-window, -shift) if shift else ()):
            regions[:, start:] += 1 + number
            regions[:, :, start:] += 3 * (1 + number)
        own = self._split(regions).squeeze(-1)
        mask = 100.0 * (own[:, None] == own[:, :, None]).float() - 100 if shift else None
        self.register_buffer("mask", mask)

    def _split(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = x.view(B, H // self.window, self.window, W // self.window, self.window, C).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, self.window**2, C)

    def _join(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x.view(-1, height // self.window, width // self.window, self.window, self.window, x.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).reshape(x.shape[0], height, width, -1)

    def forward(self, x: Tensor) -> Tensor:
        B, L, C = x.shape
        y = self.norm1(x).view(B, self.side, self.side, C).roll((-self.shift, -self.shift), (1, 2))
        y = self._join(self.attn(self._split(y), self.mask), self.side, self.side)
        x = x + y.roll((self.shift, self.shift), (1, 2)).view(B, L, C)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.side, self.norm = side, nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, _, C = x.shape
        x = x.view(B, self.side, self.side, C)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.reduction(self.norm(x.view(B, -1, 4 * C)))


class SwinTransformer(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 2, 2)
        self.stage1 = nn.Sequential(WindowBlock(dim, 2, 8, 4, 0), WindowBlock(dim, 2, 8, 4, 2))
        self.merge = PatchMerging(dim, 8)
        self.stage2 = nn.Sequential(WindowBlock(2 * dim, 4, 4, 4, 0))
        self.norm, self.head = nn.LayerNorm(2 * dim), nn.Linear(2 * dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.patch(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(self.stage2(self.merge(x))).mean(1))


@pattern(
    "Swin by hand, sizes from the stream",
    image(3, 16),
    {
        "patch": 2, "stage1.0.mlp.fc1": 32, "stage1.1.mlp.fc1": 32, "merge.reduction": 4, "stage2.0.mlp.fc1": 64,
    },
)  # fmt: skip
def swin() -> nn.Module:
    return SwinTransformer()


class ModulatedBlock(nn.Module):
    """Shifts, scales and gates of both branches come from the condition, as in DiT."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.norm1, self.norm2 = (nn.LayerNorm(dim, elementwise_affine=False) for _ in range(2))
        self.qkv, self.proj, self.mlp = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), Mlp(dim, 2 * dim)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        B, N, C = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        y = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.qkv(y).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, C)
        x = x + gate1 * self.proj(y)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class DiT(nn.Module):
    def __init__(self, dim: int = 16, side: int = 2) -> None:
        super().__init__()
        self.side, self.patch = side, nn.Conv2d(3, dim, side, side)
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, 16, dim))
        self.time = nn.Sequential(nn.Linear(8, 12), nn.SiLU(), nn.Linear(12, dim))
        self.blocks = nn.ModuleList(ModulatedBlock(dim, 4) for _ in range(2))
        self.norm, self.last = nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, 3 * side**2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.exp(-math.log(100) * torch.arange(4) / 4)
        condition = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x, condition)
        x = self.last(self.norm(x))
        side = math.isqrt(x.shape[1])
        x = x.view(len(x), side, side, self.side, self.side, 3)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), 3, side * self.side, side * self.side)


def noisy(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 3, 8, 8, generator=generator), torch.rand(samples, generator=generator)


@pattern("DiT", noisy, {"patch": 4, "time.0": 12, "time.2": 16, "blocks.0.mlp.fc1": 32, "blocks.1.mlp.fc1": 32})
def dit() -> nn.Module:
    return DiT()


class MapAttention(nn.Module):
    """Attention between the places of a map, with a depthwise convolution of the values beside it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.key_dim = heads, dim // heads, dim // heads // 2
        self.qkv = Conv(dim, dim + 2 * self.key_dim * heads, act=False)
        self.proj = Conv(dim, dim, act=False)
        self.pe = nn.Sequential(nn.Conv2d(dim, dim, 3, 1, 1, groups=dim, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        packed = self.qkv(x).view(B, self.num_heads, self.key_dim * 2 + self.head_dim, H * W)
        q, k, v = packed.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        scores = (q.mT @ k * self.key_dim**-0.5).softmax(-1)
        return self.proj((v @ scores.mT).view(B, C, H, W) + self.pe(v.reshape(B, C, H, W)))


class C2PSA(nn.Module):
    """Half of the channels goes through attention and a feed-forward unit."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.c = channels // 2
        self.cv1, self.cv2 = Conv(channels, 2 * self.c), Conv(2 * self.c, channels)
        self.attn = MapAttention(self.c, heads)
        self.ffn = nn.Sequential(Conv(self.c, 2 * self.c), Conv(2 * self.c, self.c, act=False))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).split((self.c, self.c), dim=1)
        b = b + self.attn(b)
        return self.cv2(torch.cat((a, b + self.ffn(b)), 1))


@pattern(
    "YOLO11, attention on maps", image(3, 16), {"0.conv": 16, "1.cv1.conv": 4, "1.ffn.0.conv": 32, "1.cv2.conv": 32}
)
def psa() -> nn.Module:
    layers = Conv(3, 16, 3, 2), C2PSA(32, 4)
    layers[1].cv1 = Conv(16, 32)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))


class LatentAttention(nn.Module):
    """Keys and values from a narrow latent; a part of every query, and one part of all keys, are turned by places."""

    def __init__(self, dim: int, heads: int, still: int = 4, turned: int = 4, latent: int = 6) -> None:
        super().__init__()
        self.still, self.turned, self.latent = still, turned, latent
        self.q = nn.Linear(dim, heads * (still + turned), bias=False)
        self.kv_down = nn.Linear(dim, latent + turned, bias=False)
        self.kv_norm = nn.LayerNorm(latent)
        self.kv_up = nn.Linear(latent, heads * 2 * still, bias=False)
        self.o = nn.Linear(heads * still, dim, bias=False)
        self.register_buffer("rates", 0.1 ** torch.arange(turned // 2))

    def _turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2])[:, None] * self.rates
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.cat([even * angles.cos() - odd * angles.sin(), odd * angles.cos() + even * angles.sin()], -1)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q_still, q_turned = self.q(x).view(B, T, -1, self.still + self.turned).transpose(1, 2).split(
            [self.still, self.turned], -1
        )  # fmt: skip
        latent, shared = self.kv_down(x).split([self.latent, self.turned], -1)
        packed = self.kv_up(self.kv_norm(latent)).view(B, T, -1, 2 * self.still).transpose(1, 2)
        k_still, v = packed.split([self.still, self.still], -1)
        k = k_still.new_empty(*k_still.shape[:-1], self.still + self.turned)
        k[..., : self.still] = k_still
        k[..., self.still :] = self._turn(shared[:, None]).expand(-1, k_still.shape[1], -1, -1)
        y = F.scaled_dot_product_attention(torch.cat([q_still, self._turn(q_turned)], -1), k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(B, T, -1))


class LatentDecoder(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.wte, self.norm1, self.norm2 = nn.Embedding(WORDS, dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp, self.lm_head = LatentAttention(dim, 4), Mlp(dim, 32), nn.Linear(dim, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        x = x + self.attn(self.norm1(x))
        return self.lm_head(x + self.mlp(self.norm2(x)))


@pattern("DeepSeek, latent attention", tokens, {"wte": 16, "attn.q": 4, "attn.kv_down": 6, "mlp.fc1": 32})
def latent() -> nn.Module:
    return LatentDecoder()


class TimeMix(nn.Module):
    """Weighted averages over all steps before, written into a tensor step by step, as in RWKV."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.mix, self.decay, self.first = (nn.Parameter(torch.rand(dim)) for _ in range(3))
        self.key, self.value, self.gate, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.mix + self.shift(x) * (1 - self.mix)
        k, v = self.key(x), self.value(x)
        out = torch.zeros_like(v)
        total = weight = torch.zeros_like(k[:, 0])
        for step in range(x.shape[1]):
            now = torch.exp(k[:, step] + self.first)
            out[:, step] = (total + now * v[:, step]) / (weight + now)
            total = torch.exp(-self.decay) * total + k[:, step].exp() * v[:, step]
            weight = torch.exp(-self.decay) * weight + k[:, step].exp()
        return self.output(self.gate(x).sigmoid() * out)


class RWKV(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.emb, self.norm1, self.norm2 = nn.Embedding(WORDS, dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.att, self.mlp, self.head = TimeMix(dim), Mlp(dim, 32), nn.Linear(dim, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.emb(ids)
        x = x + self.att(self.norm1(x))
        return self.head(x + self.mlp(self.norm2(x)))


@pattern("RWKV, written step by step", tokens, {"emb": 16, "att.key": 16, "mlp.fc1": 32})
def rwkv() -> nn.Module:
    return RWKV()
