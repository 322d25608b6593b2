"""Attention whose heads may share keys and values.

"GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints",
https://arxiv.org/abs/2305.13245.

Shapes: B rows, H heads of queries, G heads of keys and values, T positions, K keys, D head width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """torch's scaled_dot_product_attention, with keys and values repeated for the heads that share them.

    Args:
        queries: (B, H, T, D).
        keys: (B, G, K, D), H a multiple of G.
        values: (B, G, K, D).
        mask: bool, to be broadcast to (B, 1, T, K): True where a query sees a key.
        is_causal: whether each position sees itself and what stands before it.
        dropout: probability.

    Returns:
        (B, H, T, D).
    """
    n_shared = queries.shape[1] // keys.shape[1]
    if n_shared == 1:
        return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout, is_causal=is_causal)
    if queries.shape[2] == 1 and not is_causal:
        # the heads that share keys stand in the place of positions: a decoding step copies no key
        grouped = queries.squeeze(2).unflatten(1, (-1, n_shared))  # (B, G, H / G, D)
        mixed = F.scaled_dot_product_attention(grouped, keys, values, mask, dropout_p=dropout)
        return mixed.flatten(1, 2).unsqueeze(2)
    keys, values = keys.repeat_interleave(n_shared, dim=1), values.repeat_interleave(n_shared, dim=1)
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout, is_causal=is_causal)
