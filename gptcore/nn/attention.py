"""Causal self-attention through torch's scaled_dot_product_attention.

"Attention Is All You Need", https://arxiv.org/abs/1706.03762, in GPT-2's arrangement: one fused projection for queries,
keys and values, one output projection.

Shapes: B rows, T positions, C width, H heads, D = C / H, K keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.nn.kv_cache import LayerCache


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what stands before it."""

    def __init__(self, *, width: int, n_heads: int, dropout: float = 0.0, qkv_bias: bool = True) -> None:
        """Build the projections.

        Raises:
            ConfigError: width is not a multiple of n_heads.
        """
        super().__init__()
        if width % n_heads:
            raise ConfigError(f"width {width} is not a multiple of n_heads {n_heads}")
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv: nn.Module = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out: nn.Module = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        *,
        cache: LayerCache | None = None,
        start: int | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        n_keys: int | None = None,
    ) -> Tensor:
        """Attend within ``x`` (B, T, C), or to a cache that first takes up ``x``'s keys at ``positions`` (B, T)."""
        n_rows, length, width = x.shape
        qkv = self.qkv(x).view(n_rows, length, 3, self.n_heads, width // self.n_heads)  # (B, T, 3, H, D)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, T, D)
        dropout = self.dropout if self.training else 0.0
        if cache is None:
            mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, dropout_p=dropout)
        else:
            assert positions is not None  # the model always passes both
            cache.write(keys, values, start=start, positions=positions)
            seen_keys, seen_values = cache.keys[:, :, :n_keys], cache.values[:, :, :n_keys]  # (B, H, K, D)
            mixed = F.scaled_dot_product_attention(queries, seen_keys, seen_values, attn_mask=mask)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(n_rows, length, width))
        return F.dropout(y, self.dropout, self.training)

    def at(self, x: Tensor, positions: Tensor) -> Tensor:
        """What ``forward`` gives at one position of each row, without computing the others' queries: (B, 1, C).

        Args:
            x: (B, T, C).
            positions: (B,) int64, each below T.
        """
        n_rows, length, width = x.shape
        qkv = self.qkv(x).view(n_rows, length, 3, self.n_heads, width // self.n_heads)  # (B, T, 3, H, D)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, T, D)
        rows = torch.arange(n_rows, device=x.device)
        chosen = queries[rows, :, positions].unsqueeze(2)  # (B, H, 1, D)
        mask = torch.arange(length, device=x.device) <= positions[:, None]  # (B, T)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            chosen, keys, values, attn_mask=mask[:, None, None, :], dropout_p=dropout
        )  # (B, H, 1, D)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(n_rows, 1, width))
        return F.dropout(y, self.dropout, self.training)
