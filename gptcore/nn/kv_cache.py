"""Preallocated key/value cache for decoding ragged prompts without left padding.

Row i of the batch has its own length: its next token is written at ``lengths[i]``, and it sees the keys below. Prompts
are therefore padded on the right; a pad's key is overwritten by the first token that the row generates.

Shapes: B rows, H heads, S capacity, T new positions, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LayerCache:
    """Keys and values of one layer."""

    keys: Tensor
    """(B, H, S, D)"""
    values: Tensor
    """(B, H, S, D)"""

    def write(self, keys: Tensor, values: Tensor, *, start: int | None, positions: Tensor) -> None:
        """Store new (B, H, T, D) entries at ``positions`` (B, T); ``start`` is their common first one, if any."""
        if start is not None:
            end = start + keys.shape[2]
            self.keys[:, :, start:end] = keys
            self.values[:, :, start:end] = values
            return
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None]  # (B, 1)
        self.keys[rows, :, positions] = keys.transpose(1, 2)  # advanced indices first: (B, T, H, D)
        self.values[rows, :, positions] = values.transpose(1, 2)


class KVCache:
    """The caches of all layers and each row's length."""

    def __init__(self, layers: list[LayerCache]) -> None:
        """Take preallocated layers; all rows start empty."""
        self.layers = layers
        n_rows, _, self.capacity, _ = layers[0].keys.shape
        self.lengths = torch.zeros(n_rows, dtype=torch.int64, device=layers[0].keys.device)
        """(B,) int64: the keys each row holds."""
        self.common_length: int | None = 0
        """The length of all rows if it is one and the same, else None."""

    def positions(self, n_new: int) -> Tensor:
        """(B, n_new) int64: where the next tokens of each row stand."""
        return self.lengths[:, None] + torch.arange(n_new, device=self.lengths.device)

    def mask(self, positions: Tensor) -> tuple[Tensor | None, int]:
        """The attention mask for queries at ``positions`` (B, T), and how many keys to read.

        Returns:
            (None or (B, 1, T, K) bool, K); None where one query per row may see all K keys.
        """
        n_new = positions.shape[1]
        longest = self.common_length if self.common_length is not None else int(self.lengths.max())
        n_keys = longest + n_new
        if n_new == 1 and self.common_length is not None:
            return None, n_keys
        keys = torch.arange(n_keys, device=positions.device)
        return keys <= positions[:, None, :, None], n_keys

    def advance(self, n_new: Tensor | int) -> None:
        """Count new tokens: an int for all rows, or (B,) int64 for ragged ones."""
        self.lengths = self.lengths + n_new
        if isinstance(n_new, int):
            self.common_length = None if self.common_length is None else self.common_length + n_new
        else:
            first = int(self.lengths[0])
            self.common_length = first if bool((self.lengths == first).all()) else None

    def select(self, rows: Tensor) -> KVCache:
        """A cache of only the given rows (n,) int64, for example those that have not finished."""
        kept = KVCache([LayerCache(layer.keys[rows], layer.values[rows]) for layer in self.layers])
        kept.lengths = self.lengths[rows]
        kept.advance(torch.zeros_like(kept.lengths))
        return kept
