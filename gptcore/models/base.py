"""What every model family offers to the rest of gptcore.

Shapes: B rows, T positions, C width, V outputs (vocabulary, or classes after a head was swapped).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptcore.config import Config
from gptcore.nn.kv_cache import KVCache


@dataclass(frozen=True)
class ModelConfig(Config):
    """Sizes of a model; ``build`` gives the module with fresh weights."""

    vocab_size: int
    """Rows of the token embedding; every token id is below it."""
    context_length: int
    """The most positions the model can see at once."""

    def build(self) -> Model:
        """A new model with random weights from torch's global generator."""
        raise NotImplementedError


class Model(nn.Module):
    """A decoder: features of each position, and a head over them."""

    config: ModelConfig
    blocks: nn.ModuleList
    head: nn.Module

    def features(self, tokens: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """(B, T) int64 token ids to (B, T, C) normalised features; with a cache, its positions are continued."""
        raise NotImplementedError

    def features_at(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(B, T) int64 token ids to the features (B, C) at one position of each row, (B,) int64.

        Equal to picking them from ``features``; a family may save what the other positions' last block would cost.
        """
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.features(tokens)[rows, positions]

    def forward(self, tokens: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """(B, T) int64 token ids to (B, T, V) logits."""
        logits: Tensor = self.head(self.features(tokens, cache=cache))
        return logits

    def checkpoint_activations(self) -> None:
        """From now on compute each block's activations again in the backward pass instead of keeping them."""
        raise NotImplementedError

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache for ``n_rows`` rows of up to ``capacity`` (default: context_length) positions."""
        raise NotImplementedError
