"""Causal self-attention through torch's scaled_dot_product_attention.

"Attention Is All You Need", https://arxiv.org/abs/1706.03762, in GPT-2's arrangement: one fused projection for queries,
keys and values, one output projection.

Shapes: B rows, T positions, C width, H heads, D width of a head (C / H unless told otherwise), N positions of all
packed rows together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.nn.linear import Fused
from gptcore.nn.mixing import Mix, at_ends, causal
from gptcore.nn.shared_heads import attend


class CausalSelfAttention(Fused):
    """Multi-head attention in which a position sees itself and what stands before it."""

    def __init__(
        self, *, width: int, n_heads: int, head_width: int | None = None, dropout: float = 0.0, qkv_bias: bool = True
    ) -> None:
        """Build the projections.

        Raises:
            ConfigError: no head_width is given and width is not a multiple of n_heads.
        """
        super().__init__()
        if head_width is None and width % n_heads:
            raise ConfigError(f"width {width} is not a multiple of n_heads {n_heads}")
        self.n_heads = n_heads
        self.head_width = head_width or width // n_heads
        self.dropout = dropout
        inner = n_heads * self.head_width
        self.qkv: nn.Module = nn.Linear(width, 3 * inner, bias=qkv_bias)
        self.out: nn.Module = nn.Linear(inner, width)

    def maps(self) -> Mapping[str, tuple[int, ...]]:
        """Queries, keys and values are three maps of the same size."""
        return {"qkv": (self.n_heads * self.head_width,) * 3}

    def forward(self, x: Tensor, *, mix: Mix = causal) -> Tensor:
        """Map (B, T, C) to (B, T, C); ``mix`` says which positions see which."""
        queries, keys, values = self._projected(x)
        mixed = mix(queries, keys, values, self._dropped)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return F.dropout(y, self.dropout, self.training)

    def at(self, x: Tensor, positions: Tensor, *, lengths: Sequence[int] | None = None) -> Tensor:
        """What ``forward`` gives at one position of each row, without the others' queries: (B, 1, C).

        Args:
            x: (B, T, C); with ``lengths`` (1, N, C), the rows one after another.
            positions: (B,) int64, each below T; with ``lengths`` the last position of each row, below N.
            lengths: positions of each of the B packed rows.
        """
        queries, keys, values = self._projected(x)
        if lengths is None:
            rows = torch.arange(len(x), device=x.device)
            chosen = queries[rows, :, positions].unsqueeze(2)  # (B, H, 1, D)
            mask = torch.arange(x.shape[1], device=x.device) <= positions[:, None]  # (B, T)
            mixed = attend(chosen, keys, values, mask=mask[:, None, None, :], dropout=self._dropped)  # (B, H, 1, D)
        else:
            mixed = at_ends(lengths)(queries[:, :, positions], keys, values, self._dropped)  # (1, H, B, D)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(len(positions), 1, -1))
        return F.dropout(y, self.dropout, self.training)

    @property
    def _dropped(self) -> float:
        return self.dropout if self.training else 0.0

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, H, T, D)."""
        n_rows, length, _ = x.shape
        qkv = self.qkv(x).view(n_rows, length, 3, self.n_heads, self.head_width)  # (B, T, 3, H, D)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return queries, keys, values
