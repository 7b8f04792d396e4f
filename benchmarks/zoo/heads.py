"""Graph networks, and attention whose heads meet parameters of their own or are packed in other orders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.attention import WORDS, tokens
from benchmarks.zoo.registry import gauss, pattern

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])


class GraphConvolution(nn.Module):
    """Messages along edges, weighted by the degrees of both ends, and summed by scatter_add."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(inputs, outputs, bias=False), nn.Parameter(torch.zeros(outputs))
        self.register_buffer("edges", EDGES)

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        degree = torch.zeros(x.shape[1]).index_add(0, target, torch.ones(len(target))).clamp_min(1)
        scale = (degree[source] * degree[target]).rsqrt()
        messages = self.lin(x)[:, source] * scale.view(1, -1, 1)
        places = target.view(1, -1, 1).expand_as(messages)
        total = messages.new_zeros(len(x), x.shape[1], messages.shape[2])
        return total.scatter_add(1, places, messages) + self.bias


@pattern("GCN", gauss(6, 5), {"0.lin": 16, "2.lin": 12})
def gcn() -> nn.Module:
    return nn.Sequential(
        GraphConvolution(5, 16), nn.ReLU(), GraphConvolution(16, 12), nn.ReLU(), GraphConvolution(12, 4)
    )


class GraphAttention(nn.Module):
    """Scores of both ends of an edge, normalised among the edges that end in the same node."""

    def __init__(self, inputs: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.lin = nn.Linear(inputs, heads * width, bias=False)
        self.att_src, self.att_dst = (nn.Parameter(torch.randn(1, 1, heads, width)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(heads * width))
        self.register_buffer("edges", EDGES)

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        h = self.lin(x).view(len(x), -1, self.heads, self.width)
        scores = (h * self.att_src).sum(-1)[:, source] + (h * self.att_dst).sum(-1)[:, target]
        weights = F.leaky_relu(scores, 0.2).exp()
        places = target.view(1, -1, 1).expand_as(weights)
        total = torch.zeros_like(h[..., 0]).scatter_reduce(1, places, weights, "sum")
        messages = h[:, source] * (weights / total[:, target]).unsqueeze(-1)
        return torch.zeros_like(h).index_add(1, target, messages).flatten(2) + self.bias


@pattern("GAT", gauss(6, 5), {"0.lin": 4, "2.lin": 2})
def gat() -> nn.Module:
    return nn.Sequential(GraphAttention(5, 4, 6), nn.ELU(), GraphAttention(24, 2, 6), nn.ELU(), GraphConvolution(12, 4))


class RelativeAttention(nn.Module):
    """Transformer-XL's: biases of [heads, width], positions by distance, shifted into place."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.h, self.d_k = heads, dim // heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(dim, dim) for _ in range(4))
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.randn(heads, dim // heads)) for _ in range(2))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        batch = x.size(0)
        q = self.linear_q(x).view(batch, -1, self.h, self.d_k)
        k = self.linear_k(x).view(batch, -1, self.h, self.d_k).transpose(1, 2)
        v = self.linear_v(x).view(batch, -1, self.h, self.d_k).transpose(1, 2)
        p = self.linear_pos(places).view(places.size(0), -1, self.h, self.d_k).transpose(1, 2)
        content = (q + self.pos_bias_u).transpose(1, 2) @ k.transpose(-2, -1)
        position = self.shift((q + self.pos_bias_v).transpose(1, 2) @ p.transpose(-2, -1))
        weights = ((content + position) / self.d_k**0.5).softmax(-1)
        return self.linear_out((weights @ v).transpose(1, 2).reshape(batch, -1, self.h * self.d_k))

    def shift(self, scores: Tensor) -> Tensor:
        batch, heads, time, distances = scores.shape
        padded = torch.cat([scores.new_zeros(batch, heads, time, 1), scores], dim=-1)
        moved = padded.view(batch, heads, distances + 1, time)[:, :, 1:].view_as(scores)
        return moved[..., : distances // 2 + 1]


class ConformerBlock(nn.Module):
    """Half a feed-forward network, attention, a gated depthwise convolution, the other half."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ff1, self.ff2 = (
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
            for _ in range(2)
        )
        self.norm_mha, self.attn = nn.LayerNorm(dim), RelativeAttention(dim, 4)
        self.norm_conv, self.pointwise1 = nn.LayerNorm(dim), nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise, self.bn = nn.Conv1d(dim, dim, 3, padding=1, groups=dim), nn.BatchNorm1d(dim)
        self.pointwise2, self.norm = nn.Conv1d(dim, dim, 1), nn.LayerNorm(dim)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        x = x + 0.5 * self.ff1(x)
        x = x + self.attn(self.norm_mha(x), places)
        h = F.glu(self.pointwise1(self.norm_conv(x).transpose(1, 2)), dim=1)
        x = x + self.pointwise2(F.silu(self.bn(self.depthwise(h)))).transpose(1, 2)
        return self.norm(x + 0.5 * self.ff2(x))


class Conformer(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(6, dim), ConformerBlock(dim), nn.Linear(dim, 5)
        self.places = nn.Parameter(torch.randn(1, 9, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x), self.places))


@pattern(
    "Conformer with relative positions",
    gauss(5, 6),
    {"embed": 16, "block.ff1.1": 32, "block.attn.linear_q": 4, "block.pointwise1": 16, "block.ff2.1": 32},
)
def conformer() -> nn.Module:
    return Conformer()


class PackedAttention(nn.Module):
    """BLOOM's: queries, keys and values interleaved by head; scores by baddbmm on slopes of the heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.query_key_value, self.dense = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, heads + 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        packed = self.query_key_value(x).view(batch, length, self.num_heads, 3, self.head_dim)
        q, k, v = (packed[..., i, :].transpose(1, 2).flatten(0, 1) for i in range(3))
        alibi = (self.slopes[:, None, None] * torch.arange(length)).repeat(batch, 1, 1)
        scores = alibi.baddbmm(q, k.transpose(1, 2), beta=1.0, alpha=self.head_dim**-0.5)
        mixed = scores.softmax(-1).bmm(v).view(batch, self.num_heads, length, self.head_dim)
        return self.dense(mixed.transpose(1, 2).reshape(batch, length, -1))


class GroupedAttention(nn.Module):
    """Falcon's: queries of a group beside the keys and the values that they share, expanded to all of them."""

    def __init__(self, dim: int, heads: int, kv_heads: int = 2) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = heads, kv_heads, dim // heads
        self.query_key_value = nn.Linear(dim, (heads + 2 * kv_heads) * self.head_dim, bias=False)
        self.dense = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        packed = self.query_key_value(x)
        packed = packed.view(batch, length, -1, self.num_heads // self.num_kv_heads + 2, self.head_dim)
        query, key, value = packed[:, :, :, :-2], packed[:, :, :, [-2]], packed[:, :, :, [-1]]
        key, value = torch.broadcast_to(key, query.shape), torch.broadcast_to(value, query.shape)
        sizes = batch, self.num_heads, length, self.head_dim
        q, k, v = (t.flatten(2, 3).transpose(1, 2).reshape(sizes) for t in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dense(mixed.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim))


class SlicedAttention(nn.Module):
    """Phi-3's: one projection, sliced into queries, keys and values; keys and values repeated for their queries."""

    def __init__(self, dim: int, heads: int, kv_heads: int = 2) -> None:
        super().__init__()
        self.head_dim, self.repeats = dim // heads, heads // kv_heads
        self.queries, self.keys = dim, kv_heads * self.head_dim
        self.qkv_proj = nn.Linear(dim, dim + 2 * self.keys, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        packed = self.qkv_proj(x)
        q = packed[..., : self.queries]
        k = packed[..., self.queries : self.queries + self.keys]
        v = packed[..., self.queries + self.keys :]
        q, k, v = (t.view(batch, length, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(self.repeats, dim=1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class GatedMlp(nn.Module):
    """Gate and value from one projection."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * value)


class Decoder(nn.Module):
    """Two blocks of attention and a gated network behind an embedding."""

    def __init__(self, attention: type[nn.Module], dim: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.attn = nn.ModuleList(attention(dim, 4) for _ in range(2))
        self.mlp = nn.ModuleList(GatedMlp(dim, 24) for _ in range(2))
        self.norm, self.lm_head = nn.LayerNorm(dim), nn.Linear(dim, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for i, (attn, mlp) in enumerate(zip(self.attn, self.mlp, strict=True)):
            x = x + attn(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.lm_head(self.norm(x))


MLPS = {"embed": 16, "mlp.0.gate_up_proj": 24, "mlp.1.gate_up_proj": 24}


@pattern("BLOOM", tokens, {**MLPS, "attn.0.query_key_value": 4, "attn.1.query_key_value": 4})
def bloom() -> nn.Module:
    return Decoder(PackedAttention)


# heads of queries go with the keys and values that they share
@pattern("Falcon, grouped queries", tokens, {**MLPS, "attn.0.query_key_value": 2, "attn.1.query_key_value": 2})
def falcon() -> nn.Module:
    return Decoder(GroupedAttention)


@pattern("Phi-3", tokens, {**MLPS, "attn.0.qkv_proj": 2, "attn.1.qkv_proj": 2})
def phi3() -> nn.Module:
    return Decoder(SlicedAttention)
