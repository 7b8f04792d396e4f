"""`nn.MultiheadAttention` whose heads, and whose width, can be cut.

The layer of PyTorch takes the size of a head to be its width divided by the number of heads, so it cannot lose heads.
Its twin here takes all sizes from the weights. It has the same parameters under the same names, and computes the same.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mipp.modules.adapters import ADAPTERS, Adapter
from mipp.runtime.mistakes import border


class Multihead(nn.MultiheadAttention):
    """Attention with any number of heads of `head_dim` each, on inputs of any width."""

    @property
    def _qkv_same_embed_dim(self) -> bool:
        return False  # keeps nn.TransformerEncoderLayer off its fused kernel, which takes the sizes from the width

    @border
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002 - the signature of the layer
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention`."""
        same, unbatched = query is key and key is value, query.ndim == 2
        if query.is_nested and same and attn_mask is None and key_padding_mask is None and not need_weights:
            return self._ragged(query), None  # nn.TransformerEncoder leaves padding out where no gradient is taken
        if unbatched:
            query, key, value = (t.unsqueeze(1 - int(self.batch_first)) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        projected = self._pack(query) if same and self.in_proj_weight is not None else self._each(query, key, value)
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in projected)
        mask = _mask(attn_mask, key_padding_mask, q)
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            heads = F.dropout(weights, self.dropout, self.training) @ v
        else:
            weights = None
            heads = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        out = self.out_proj(heads.transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        out = out.squeeze(1 - int(self.batch_first)) if unbatched else out
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if unbatched else weights
        return out, weights

    def _ragged(self, x: Tensor) -> Tensor:
        """Attention of sequences of different lengths among themselves, `x` and the result nested tensors."""
        lengths = [len(sequence) for sequence in x.unbind()]
        padded = x.to_padded_tensor(0.0)
        places = torch.arange(padded.shape[1], device=padded.device)
        padding = places >= torch.tensor(lengths, device=padded.device)[:, None]
        out, _ = self(padded, padded, padded, padding, need_weights=False)
        return torch.nested.as_nested_tensor([each[:length] for each, length in zip(out, lengths, strict=True)])

    @border
    def _pack(self, x: Tensor) -> Any:
        return F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)

    @border
    def _each(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        packed = self.in_proj_weight
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if packed is None else packed.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
    """The mask that is added to the scores, broadcast to [samples, heads, queries, keys]."""
    if attn_mask is not None and attn_mask.ndim == 3:
        attn_mask = attn_mask.unflatten(0, (len(q), -1))
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask[:, None, None, :]
    given = [_additive(m, q.dtype) for m in (attn_mask, key_padding_mask) if m is not None]
    return None if not given else given[0] if len(given) == 1 else given[0] + given[1]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))


def open_attention(module: nn.MultiheadAttention) -> None:
    """Lets a layer of attention, changed in place, take its sizes from its weights."""
    if type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn:
        module.__class__ = Multihead


ADAPTERS |= {
    nn.MultiheadAttention: Adapter(open=open_attention),
    Multihead: Adapter(
        lambda m, w: {"num_heads": w.shape[1] // m.head_dim, "embed_dim": w.shape[0]}, ("out_proj.weight",)
    ),
}
