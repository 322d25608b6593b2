"""How positions see each other: the part of attention that differs between training, packed rows and decoding.

A ``Mix`` takes queries, keys and values and gives the weighted values. All go through torch's
scaled_dot_product_attention. Keys and values may have fewer heads than queries (``shared_heads``).

Shapes: B rows, H heads, T positions, D head width, K keys, N positions of all packed rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gptcore.nn.kv_cache import LayerCache
from gptcore.nn.shared_heads import attend

Mix = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries, keys, values (B, H, T, D) and the dropout probability to the mixed values (B, H, T, D)."""


def causal(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """Each position sees itself and what stands before it in its row."""
    return attend(queries, keys, values, is_causal=True, dropout=dropout)


def packed(lengths: Sequence[int]) -> Mix:
    """Rows that stand one after another in one row (1, H, N, D): each sees itself alone.

    Row by row it costs what the rows cost; a block-diagonal mask over all N would cost N squared.

    Args:
        lengths: positions of each row; their sum is N.
    """

    def mix(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        sizes = list(lengths)
        rows = zip(queries.split(sizes, dim=2), keys.split(sizes, dim=2), values.split(sizes, dim=2), strict=True)
        return torch.cat([causal(*row, dropout=dropout) for row in rows], dim=2)

    return mix


def cached(cache: LayerCache, *, start: int | None, positions: Tensor, mask: Tensor | None, n_keys: int) -> Mix:
    """The new positions (B, T) of each row see all that the cache holds of it, themselves included.

    Args:
        cache: takes up the new keys and values first.
        start: the rows' common first new position, if there is one.
        positions: (B, T) int64.
        mask: (B, 1, T, K) bool, or None where all K keys may be seen.
        n_keys: K.
    """

    def mix(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        del dropout
        cache.write(keys, values, start=start, positions=positions)
        seen_keys, seen_values = cache.keys[:, :, :n_keys], cache.values[:, :, :n_keys]  # (B, H, K, D)
        return attend(queries, seen_keys, seen_values, mask=mask)

    return mix


def at_ends(lengths: Sequence[int]) -> Mix:
    """As ``packed``, for the queries (1, H, B, D) of each row's last position alone: (1, H, B, D)."""

    def mix(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        each = zip(queries.unbind(2), keys.split(list(lengths), 2), values.split(list(lengths), 2), strict=True)
        chosen = [
            attend(query.unsqueeze(2), row_keys, row_values, dropout=dropout) for query, row_keys, row_values in each
        ]
        return torch.cat(chosen, dim=2)

    return mix
