"""What every model family offers to the rest of gptcore.

Shapes: B rows, T positions, C width, V outputs (vocabulary, or classes after a head was swapped), N positions of all
packed rows together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from gptcore.config import Config
from gptcore.errors import ConfigError
from gptcore.nn.block import Block
from gptcore.nn.kv_cache import KVCache
from gptcore.nn.tied import tied_lookup


@dataclass(frozen=True)
class ModelConfig(Config):
    """Sizes of a model; ``build`` gives the module with fresh weights."""

    vocab_size: int
    """Rows of the token embedding; every token id is below it."""
    context_length: int
    """The most positions the model can see at once."""
    width: int
    """Width of the residual stream."""
    n_layers: int
    """Number of blocks."""
    n_heads: int
    """Attention heads per block."""
    dropout: float
    """Dropout probability."""
    tied_head: bool
    """Whether the output head shares the token embedding's weights."""

    def build(self) -> Model:
        """A new model with random weights from torch's global generator."""
        raise NotImplementedError


class Model(nn.Module):
    """A decoder: features of each position, and a head over them."""

    config: ModelConfig
    token_embedding: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module
    head: nn.Module
    causal: ClassVar[bool] = True
    """Whether a position sees itself and those before it alone."""
    one_tied_gradient: bool = True
    """Whether a tied head and the embedding may share one gradient (``gptcore.nn.tied``)."""

    def features(self, tokens: Tensor, *, cache: KVCache | None = None, lengths: Sequence[int] | None = None) -> Tensor:
        """(B, T) int64 token ids to (B, T, C) normalised features.

        Args:
            tokens: the rows, padded on the right; or, with ``lengths``, (1, N): the rows one after another.
            cache: its positions are continued.
            lengths: positions of each packed row; each row's positions begin anew and see that row alone.

        Raises:
            ConfigError: more positions than ``context_length`` (or than the cache) can hold.
        """
        if cache is None:
            return self._features(self.token_embedding(tokens), lengths)
        y: Tensor = self.norm(self._continued(tokens, cache))
        return y

    def features_and_head(
        self, tokens: Tensor, *, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``features``, and the weights (V, C) of a linear head without bias, for a loss that never makes all logits.

        The loss must use these weights and not ``head.weight``. None if the head is of another kind.
        Where the embedding's weights are the head's, both share one gradient.

        Raises:
            ConfigError: more positions than ``context_length``.
        """
        shared: Tensor | None = getattr(self.token_embedding, "weight", None)
        tied = getattr(self.head, "weight", None) is shared and self.one_tied_gradient
        if shared is None or not (tied and shared.requires_grad):
            plain = isinstance(self.head, nn.Linear) and self.head.bias is None
            return self.features(tokens, lengths=lengths), cast(nn.Linear, self.head).weight if plain else None
        looked_up, head = tied_lookup(shared, tokens)
        return self._features(looked_up, lengths), head

    def _features(self, looked_up: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """The features (B, T, C) of tokens whose embeddings (B, T, C) were looked up already."""
        raise NotImplementedError

    def _continued(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """What the blocks make of tokens (B, T) behind those of the cache, (B, T, C), not yet normalised."""
        raise NotImplementedError

    def features_at(self, tokens: Tensor, positions: Tensor, *, lengths: Sequence[int] | None = None) -> Tensor:
        """The features (B, C) at one position of each row.

        Equal to picking them from ``features``; a family may save what the other positions' last block would cost.

        Args:
            tokens: (B, T) int64; or, with ``lengths``, (1, N) int64: the rows one after another.
            positions: (B,) int64, below T; with ``lengths`` the last position of each row, below N.
            lengths: positions of each packed row.
        """
        if lengths is not None:
            return self.features(tokens, lengths=lengths)[0, positions]
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.features(tokens)[rows, positions]

    def forward(self, tokens: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """(B, T) int64 token ids to (B, T, V) logits."""
        logits: Tensor = self.head(self.features(tokens, cache=cache))
        return logits

    def tie_head(self) -> None:
        """Let the head share the token embedding's weights."""
        assert isinstance(self.head, nn.Linear)
        assert isinstance(self.token_embedding, nn.Embedding)
        self.head.weight = self.token_embedding.weight

    def checkpoint_activations(self) -> None:
        """From now on compute each block's activations again in the backward pass instead of keeping them."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.checkpoint()

    def _check_length(self, length: int, limit: int) -> None:
        if length > limit:
            raise ConfigError(
                f"{length} positions do not fit the model's context_length of {limit}; "
                "shorten the input or choose a model with a longer context"
            )

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache for ``n_rows`` rows of up to ``capacity`` (default: context_length) positions."""
        raise NotImplementedError
