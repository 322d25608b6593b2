"""How positions see each other: the part of attention that differs between training, packed rows and decoding.

A ``Mix`` takes queries, keys and values and gives the weighted values. All go through torch's
scaled_dot_product_attention. Keys and values may have fewer heads than queries (``shared_heads``).

Shapes: B rows, H heads, T positions, D head width, K keys, N positions of all packed rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gptcore.nn.kv_cache import KVCache, LayerCache
from gptcore.nn.shared_heads import attend

Mix = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries, keys, values (B, H, T, D) and the dropout probability to the mixed values (B, H, T, D)."""


def causal(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """Each position sees itself and what stands before it in its row."""
    return attend(queries, keys, values, is_causal=True, dropout=dropout)


def full(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """Each position sees all of its row."""
    return attend(queries, keys, values, dropout=dropout)


def padded(lengths: Sequence[int]) -> Mix:
    """Rows (B, H, T, D) that are filled up on the right: each position sees all real positions of its row.

    The mask is made once, at the first layer; rows that are all of one length need none.

    Args:
        lengths: real positions of each of the B rows, at least one.
    """
    masks: list[Tensor] = []

    def mix(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        n_keys = keys.shape[2]
        if min(lengths) == n_keys:
            return full(queries, keys, values, dropout)
        if not masks:
            real = torch.tensor(lengths, device=keys.device)[:, None]  # (B, 1)
            masks.append((torch.arange(n_keys, device=keys.device) < real)[:, None, None, :])  # (B, 1, 1, K)
        return attend(queries, keys, values, mask=masks[0], dropout=dropout)

    return mix


def packed(lengths: Sequence[int], *, inner: Mix = causal) -> Mix:
    """Rows that stand one after another in one row (1, H, N, D): each sees itself alone.

    Row by row it costs what the rows cost; a block-diagonal mask over all N would cost N squared.

    Args:
        lengths: positions of each row; their sum is N.
        inner: what a position sees of its own row, ``causal`` or ``full``.
    """

    def mix(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        sizes = list(lengths)
        rows = zip(queries.split(sizes, dim=2), keys.split(sizes, dim=2), values.split(sizes, dim=2), strict=True)
        return torch.cat([inner(*row, dropout) for row in rows], dim=2)

    return mix


def cached(cache: KVCache, n_new: int) -> list[Mix]:
    """One mix for each layer: the new positions of each row see all that the cache holds of it, themselves included.

    Row by row, each over its own keys alone: no key of a longer neighbour is read, and to the last bit a row's result
    is what it would be without neighbours (a sum over masked keys is taken in another order).

    Args:
        cache: takes up the new keys and values first.
        n_new: T, the new positions of each row.
    """
    starts: list[int] = cache.lengths.tolist()
    positions = cache.positions(n_new)
    masks = [_reach(start, n_new, positions.device) for start in starts]
    common = starts[0] if len(set(starts)) == 1 else None

    def mix_of(layer: LayerCache) -> Mix:
        def mix(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
            del dropout
            layer.write(keys, values, start=common, positions=positions)
            rows = []
            for i, (start, mask) in enumerate(zip(starts, masks, strict=True)):
                seen_keys, seen_values = layer.read(i, start + n_new)
                rows.append(attend(queries[i : i + 1], seen_keys, seen_values, mask=mask, is_causal=start == 0))
            return rows[0] if len(rows) == 1 else torch.cat(rows)

        return mix

    return [mix_of(layer) for layer in cache.layers]


def _reach(start: int, n_new: int, device: torch.device) -> Tensor | None:
    """Which of the K keys each of T new positions sees, (T, K) bool; None for all, or for plain causality."""
    if start == 0 or n_new == 1:
        return None
    return torch.ones(n_new, start + n_new, dtype=torch.bool, device=device).tril(start)


def last_queries(lengths: Sequence[int]) -> Mix:
    """As ``packed``, for the queries (1, H, B, D) of each row's last position alone: (1, H, B, D)."""

    def mix(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
        each = zip(queries.unbind(2), keys.split(list(lengths), 2), values.split(list(lengths), 2), strict=True)
        chosen = [
            attend(query.unsqueeze(2), row_keys, row_values, dropout=dropout) for query, row_keys, row_values in each
        ]
        return torch.cat(chosen, dim=2)

    return mix
