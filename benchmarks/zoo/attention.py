"""Attention and mixtures of experts as people write them by hand, and as torch.nn has them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.zoo.registry import gauss, image, pattern

WORDS = 30


def tokens(samples: int, generator: torch.Generator) -> Tensor:
    return torch.randint(WORDS, (samples, 6), generator=generator)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class FusedAttention(nn.Module):
    """One projection for queries, keys and values; heads by attributes; the merged size computed."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, -1))


class ClassicAttention(FusedAttention):
    """The same with all sizes taken from the width of the input, so that heads and stream need each other."""

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q @ k.transpose(-2, -1)) * self.head_dim**-0.5
        x = (attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class Block(nn.Module):
    def __init__(self, dim: int, attn: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), attn
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, attention: type[nn.Module], dim: int = 16, *, class_token: bool = True) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 9 + class_token, dim))
        self.blocks = nn.Sequential(*(Block(dim, attention(dim, 4)) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        return self.head(x[:, 0] if self.cls_token is not None else x.mean(1))


@pattern(
    "ViT by hand, fused attention",
    image(3, 12),
    {
        "patch_embed": 16,
        "blocks.0.attn.qkv": 4, "blocks.0.mlp.fc1": 32, "blocks.1.attn.qkv": 4, "blocks.1.mlp.fc1": 32,
    },
)  # fmt: skip
def fused_vit() -> nn.Module:
    return VisionTransformer(FusedAttention)


# the head size is C // num_heads with C the width of the stream: a head goes with as many channels as it is wide
@pattern(
    "ViT by hand, sizes from the stream",
    image(3, 12),
    {"patch_embed": 4, "blocks.0.mlp.fc1": 32, "blocks.1.mlp.fc1": 32},
)
def classic_vit() -> nn.Module:
    return VisionTransformer(ClassicAttention)


class EinsumAttention(nn.Module):
    """Products as einsum; the parts of one projection by chunk."""

    def __init__(self, dim: int, heads: int, dim_head: int = 6) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (t.reshape(b, n, self.heads, -1).transpose(1, 2) for t in self.to_qkv(x).chunk(3, dim=-1))
        dots = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
        out = torch.einsum("bhij,bhjd->bhid", dots.softmax(dim=-1), v)
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


@pattern(
    "ViT by hand, einsum",
    image(3, 12),
    {
        "patch_embed": 16,
        "blocks.0.attn.to_qkv": 4, "blocks.0.mlp.fc1": 32, "blocks.1.attn.to_qkv": 4, "blocks.1.mlp.fc1": 32,
    },
)  # fmt: skip
def einsum_vit() -> nn.Module:
    return VisionTransformer(EinsumAttention, class_token=False)


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of a tensor with itself."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


# nn.MultiheadAttention computes the head size as width // heads from the width of its input
@pattern("nn.MultiheadAttention", image(3, 12), {"blocks.0.mlp.fc1": 32, "blocks.1.mlp.fc1": 32})
def multihead() -> nn.Module:
    return VisionTransformer(SelfAttention)


class EncoderStack(nn.Module):
    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


ENCODER = {"encoder.layers.0.linear1": 24, "encoder.layers.1.linear1": 24, "head.0": 12}


@pattern("nn.TransformerEncoder", tokens, ENCODER)
def encoder() -> nn.Module:
    return EncoderStack(norm_first=False)


@pattern("nn.TransformerEncoder, norm first", tokens, ENCODER)
def encoder_norm_first() -> nn.Module:
    return EncoderStack(norm_first=True)


class Translator(nn.Module):
    """nn.Transformer with masks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16)
        self.transformer = nn.Transformer(16, 4, 1, 1, 24, batch_first=True)
        self.generator = nn.Linear(16, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.size(1), dtype=self.embed.weight.dtype)
        return self.generator(self.transformer(self.embed(source), self.embed(target), tgt_mask=mask))


@pattern(
    "nn.Transformer",
    lambda n, g: (tokens(n, g), tokens(n, g)),
    {"transformer.encoder.layers.0.linear1": 24, "transformer.decoder.layers.0.linear1": 24},
)
def translator() -> nn.Module:
    return Translator()


class CausalAttention(nn.Module):
    """Sizes from the width of the stream, as in the small GPTs that people train themselves."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.n_head, self.n_embd = n_head, n_embd

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class SmallGPT(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, 16), nn.Embedding(8, 16)
        self.h = nn.ModuleList(Block(16, attention(16, 4)) for _ in range(2))
        self.ln_f = nn.LayerNorm(16)
        self.lm_head = nn.Linear(16, WORDS, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor) -> Tensor:
        pos = torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device)
        x = self.wte(idx) + self.wpe(pos)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


@pattern("GPT by hand, sizes from the stream", tokens, {"wte": 4, "h.0.mlp.fc1": 32, "h.1.mlp.fc1": 32})
def small_gpt() -> nn.Module:
    return SmallGPT(CausalAttention)


class RotaryAttention(nn.Module):
    """Rotary positions, grouped queries by repeat_interleave, normalised queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = heads, heads // 2, dim // heads
        self.n_rep = self.n_heads // self.n_kv_heads
        self.wq, self.wo = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, self.n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, self.n_kv_heads * self.head_dim, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(self.head_dim), nn.RMSNorm(self.head_dim)
        angles = torch.outer(torch.arange(8.0), 1e4 ** -torch.linspace(0, 1, self.head_dim // 2))
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))

    def rotate(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=-1)
        steps = x.shape[-2]
        return x * self.cos[:steps] + torch.cat((-x2, x1), dim=-1) * self.sin[:steps]

    def forward(self, x: Tensor) -> Tensor:
        bsz, seqlen, _ = x.shape
        xq = self.wq(x).view(bsz, seqlen, self.n_heads, self.head_dim).transpose(1, 2)
        xk = self.wk(x).view(bsz, seqlen, self.n_kv_heads, self.head_dim).transpose(1, 2)
        xv = self.wv(x).view(bsz, seqlen, self.n_kv_heads, self.head_dim).transpose(1, 2)
        xq, xk = self.rotate(self.q_norm(xq)), self.rotate(self.k_norm(xk))
        xk, xv = (t.repeat_interleave(self.n_rep, dim=1) for t in (xk, xv))
        output = F.scaled_dot_product_attention(xq, xk, xv, is_causal=True)
        return self.wo(output.transpose(1, 2).contiguous().view(bsz, seqlen, -1))


@pattern(
    "GPT by hand, rotary and grouped queries",
    tokens,
    {"wte": 16, "h.0.attn.wk": 2, "h.0.mlp.fc1": 32, "h.1.attn.wk": 2, "h.1.mlp.fc1": 32},
)
def rotary_gpt() -> nn.Module:
    return SmallGPT(RotaryAttention)


class CrossAttention(nn.Module):
    """Learned queries read a sequence (Perceiver)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.latents = nn.Parameter(torch.randn(3, 16))
        self.embed = nn.Linear(5, 12)
        self.to_q, self.to_kv = nn.Linear(16, 16), nn.Linear(12, 32)
        self.to_out, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.unsqueeze(0).expand(x.shape[0], -1, -1)
        k, v = self.to_kv(F.gelu(self.embed(x))).chunk(2, dim=-1)
        q, k, v = (self.split_heads(t) for t in (self.to_q(latents), k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((latents + self.to_out(out)).mean(1))


@pattern(
    "Cross-attention with learned queries",
    gauss(6, 5),
    {
        "embed": 12, "to_q": 4,
        "latents": 16,  # the stream of the queries, with to_out
    },
)  # fmt: skip
def perceiver() -> nn.Module:
    return CrossAttention()


class Experts(nn.Module):
    """Each token goes through the two experts that a router likes best; experts are modules of their own."""

    def __init__(self, dim: int, *_: Any) -> None:
        super().__init__()
        self.top_k = 2
        self.gate = nn.Linear(dim, 4, bias=False)
        self.experts = nn.ModuleList(Mlp(dim, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = torch.topk(self.gate(flat).softmax(dim=-1), self.top_k)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            token, nth = torch.where(chosen == i)
            out[token] += weights[token, nth, None] * expert(flat[token])
        return out.view_as(x)


@pattern(
    "Mixture of experts by hand",
    lambda n, g: torch.randint(WORDS, (8 * n, 6), generator=g),  # enough tokens for every expert
    {"wte": 16}
    | {f"h.{i}.mlp.fc1": 32 for i in (0, 1)}
    | {f"h.{i}.attn.experts.{j}.fc1": 12 for i in (0, 1) for j in range(4)},
)
def experts() -> nn.Module:
    return SmallGPT(Experts)


class Checkpointed(nn.Module):
    """Blocks under torch.utils.checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16)
        self.blocks = nn.ModuleList(Mlp(16, 24) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.head(x)


@pattern("Gradient checkpointing", gauss(6), {"stem": 16, "blocks.0.fc1": 24, "blocks.1.fc1": 24})
def checkpointed() -> nn.Module:
    return Checkpointed()


class Branching(nn.Module):
    """The data decide which branch runs; the other one is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.easy, self.hard = Mlp(6, 12), Mlp(6, 24)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.easy(x) if x.abs().sum() > 0 else self.hard(x))


# easy.fc2 and hard.fc2 are read by the same layer: only units inside of the branch that was seen are safe to remove
@pattern("Data-dependent branch", gauss(6), {"easy.fc1": 12})
def branching() -> nn.Module:
    return Branching()
