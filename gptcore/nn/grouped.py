"""Self-attention of Llama: several heads share keys and values, no biases.

"GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints",
https://arxiv.org/abs/2305.13245.

Shapes: B rows, T positions, C width, H heads of queries, G heads of keys and values, D = C / H.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.nn.attention import CausalSelfAttention


class GroupedSelfAttention(CausalSelfAttention):
    """As ``CausalSelfAttention``, with fewer heads of keys and values than of queries."""

    def __init__(self, *, width: int, n_heads: int, n_kv_heads: int, dropout: float = 0.0) -> None:
        """Build the projections.

        Raises:
            ConfigError: width is not a multiple of n_heads, or n_heads not of n_kv_heads.
        """
        nn.Module.__init__(self)
        if width % n_heads or n_heads % n_kv_heads:
            raise ConfigError(
                f"width {width} is not a multiple of n_heads {n_heads}, or that is none of n_kv_heads {n_kv_heads}"
            )
        self.n_heads, self.n_kv_heads, self.head_width = n_heads, n_kv_heads, width // n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, width + 2 * n_kv_heads * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def maps(self) -> Mapping[str, tuple[int, ...]]:
        """Queries, and the smaller maps of keys and values."""
        queries, shared = self.n_heads * self.head_width, self.n_kv_heads * self.head_width
        return {"qkv": (queries, shared, shared)}

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), keys and values (B, G, T, D)."""
        parts = self.qkv(x).split(self.maps()["qkv"], dim=-1)
        queries, keys, values = (part.unflatten(-1, (-1, self.head_width)).transpose(1, 2) for part in parts)
        return queries, keys, values
