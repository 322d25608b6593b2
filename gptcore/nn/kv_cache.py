"""Preallocated key/value cache for decoding ragged prompts without left padding.

Row i of the batch has its own length: its next token is written at ``lengths[i]``, and it sees the keys below. Prompts
are therefore padded on the right, if at all; a pad's key is overwritten by the first token that the row generates.

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

    def read(self, row: int, length: int) -> tuple[Tensor, Tensor]:
        """The first ``length`` keys and values of a row, (1, H, length, D) each."""
        return self.keys[row : row + 1, :, :length], self.values[row : row + 1, :, :length]


class KVCache:
    """The caches of all layers and each row's length."""

    def __init__(self, layers: list[LayerCache], *, lengths: Tensor | None = None) -> None:
        """Take preallocated layers; without ``lengths`` all rows start empty."""
        self.layers = layers
        n_rows, _, self.capacity, _ = layers[0].keys.shape
        fresh = torch.zeros(n_rows, dtype=torch.int64, device=layers[0].keys.device)
        self.lengths = fresh if lengths is None else lengths
        """(B,) int64: the keys each row holds."""

    def positions(self, n_new: int) -> Tensor:
        """(B, n_new) int64: where the next tokens of each row stand."""
        return self.lengths[:, None] + torch.arange(n_new, device=self.lengths.device)

    def advance(self, n_new: Tensor | int) -> None:
        """Count new tokens: an int for all rows, or (B,) int64 for ragged ones."""
        self.lengths += n_new  # in place: the rows of a part are those of the whole

    def part(self, start: int, stop: int) -> KVCache:
        """The rows from ``start`` to before ``stop``, in the same memory: what is written to one is in the other."""
        layers = [LayerCache(layer.keys[start:stop], layer.values[start:stop]) for layer in self.layers]
        return KVCache(layers, lengths=self.lengths[start:stop])

    def copy_row(self, source: int, target: int) -> None:
        """Let row ``target`` hold what row ``source`` holds."""
        length = int(self.lengths[source])
        for layer in self.layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
        self.lengths[target] = length

    def clear(self, row: int) -> None:
        """Forget what a row holds."""
        self.lengths[row] = 0


class MemoryCache(KVCache):
    """As ``KVCache``, with the keys and values of what an encoder has made of each row's source."""

    def __init__(
        self,
        layers: list[LayerCache],
        *,
        memory: list[LayerCache],
        lengths: Tensor | None = None,
        memory_lengths: Tensor | None = None,
    ) -> None:
        """Take preallocated layers of both; without lengths all rows start empty."""
        super().__init__(layers, lengths=lengths)
        self.memory = memory
        self.memory_lengths = torch.zeros_like(self.lengths) if memory_lengths is None else memory_lengths
        """(B,) int64: the keys that each row's memory holds."""

    def part(self, start: int, stop: int) -> MemoryCache:
        """The rows from ``start`` to before ``stop``, in the same memory."""
        own = super().part(start, stop)
        memory = [LayerCache(layer.keys[start:stop], layer.values[start:stop]) for layer in self.memory]
        lengths = self.memory_lengths[start:stop]
        return MemoryCache(own.layers, memory=memory, lengths=own.lengths, memory_lengths=lengths)

    def copy_row(self, source: int, target: int) -> None:
        """Let row ``target`` hold what row ``source`` holds."""
        super().copy_row(source, target)
        length = int(self.memory_lengths[source])
        for layer in self.memory:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]
        self.memory_lengths[target] = length

    def clear(self, row: int) -> None:
        """Forget what a row holds."""
        super().clear(row)
        self.memory_lengths[row] = 0
