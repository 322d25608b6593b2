"""Llama: a causal decoder with rotary positions, RMSNorm, SwiGLU, shared keys and values, and no biases.

"LLaMA: Open and Efficient Foundation Language Models", https://arxiv.org/abs/2302.13971; shared heads as in "Llama 2",
https://arxiv.org/abs/2307.09288. Drawn as GPT-2 is, residual projections included. Its blocks have the parts of GPT-2's
under the same names (``qkv``, ``out``, ``up``, ``down``), so that what adapts, quantizes or prunes these does so here.

Shapes: B rows, T positions, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.models.base import Model, ModelConfig
from gptcore.models.gpt.model import initialise
from gptcore.nn import mixing
from gptcore.nn.block import Block
from gptcore.nn.gated import GatedFeedForward
from gptcore.nn.grouped import GroupedSelfAttention
from gptcore.nn.kv_cache import KVCache, LayerCache
from gptcore.nn.mixing import cached, causal
from gptcore.nn.rotary import Turns, rotary
from gptcore.nn.rows import row_positions


@dataclass(frozen=True)
class LlamaConfig(ModelConfig):
    """Sizes and switches of a Llama-class model."""

    vocab_size: int = 50257
    """Rows of the token embedding; every token id is below it."""
    context_length: int = 1024
    """The most positions the model can see at once."""
    width: int = 768
    """Width of the residual stream."""
    n_layers: int = 12
    """Number of blocks."""
    n_heads: int = 12
    """Attention heads per block; width is an even multiple of it."""
    n_kv_heads: int | None = None
    """Heads of keys and values, of which n_heads is a multiple; none: as many as there are heads."""
    hidden_width: int | None = None
    """Width inside the feed-forward layers; none: 8/3 of the width, up to the next multiple of 32."""
    rope_base: float = 10_000.0
    """Base of the rotary angles."""
    norm_epsilon: float = 1e-5
    """Added to the mean square in RMSNorm."""
    dropout: float = 0.0
    """Dropout probability on embeddings, attention weights and both sub-blocks' outputs."""
    tied_head: bool = True
    """Whether the output head shares the token embedding's weights."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        for name in ("vocab_size", "context_length", "width", "n_layers", "n_heads", "n_kv_heads", "hidden_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"expected {name} to be at least 1, got {value}")
        if self.width % (2 * self.n_heads):
            raise ConfigError(f"width {self.width} is not an even multiple of n_heads {self.n_heads}")
        if self.n_heads % self.kv_heads:
            raise ConfigError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.kv_heads}")
        for name in ("rope_base", "norm_epsilon"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"expected {name} to be above 0, got {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"expected dropout to be at least 0 and below 1, got {self.dropout}")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def hidden_size(self) -> int:
        """Width inside the feed-forward layers."""
        return self.hidden_width or -(-8 * self.width // 96) * 32

    def build(self) -> Llama:
        """A new model with random weights from torch's global generator."""
        return Llama(self)


class LlamaBlock(Block):
    """GPT-2's block with Llama's parts."""

    def __init__(self, config: LlamaConfig) -> None:
        """Build both sub-blocks."""
        nn.Module.__init__(self)
        self.norm_1 = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.attention = GroupedSelfAttention(
            width=config.width, n_heads=config.n_heads, n_kv_heads=config.kv_heads, dropout=config.dropout
        )
        self.norm_2 = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.feedforward = GatedFeedForward(width=config.width, hidden_width=config.hidden_size, dropout=config.dropout)
        self.checkpointed = False


class Llama(Model):
    """The Llama decoder."""

    config: LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        """Build all layers and draw their weights."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(LlamaBlock(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        place = "meta" if config.tied_head else None  # a tied head's own weights would be drawn and thrown away
        self.head = nn.Linear(config.width, config.vocab_size, bias=False, device=place)
        if config.tied_head:
            self.tie_head()
        initialise(self, n_layers=config.n_layers)

    def _features(self, looked_up: Tensor, lengths: Sequence[int] | None, packed: bool) -> Tensor:
        rows = self._row_lengths(looked_up, lengths, packed)
        turns = self._turns(row_positions(rows or [looked_up.shape[1]], device=looked_up.device))
        mix = rotary(causal if rows is None else mixing.packed(rows), turns)
        x = F.dropout(looked_up, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, mix=mix)
        y: Tensor = self.norm(x)
        return y

    def _extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        n_new = tokens.shape[1]
        self._check_length(int(cache.lengths.max()) + n_new, cache.capacity)
        turns = self._turns(cache.positions(n_new))
        x: Tensor = self.token_embedding(tokens)
        for block, mix in zip(self.blocks, cached(cache, n_new), strict=True):
            x = block(x, mix=rotary(mix, turns))
        return x

    def _turns(self, positions: Tensor) -> Turns:
        config = self.config
        return Turns.at(positions, head_width=config.width // config.n_heads, base=config.rope_base)

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache for ``n_rows`` rows of up to ``capacity`` (default: context_length) positions."""
        config = self.config
        size = min(capacity or config.context_length, config.context_length)
        shape = (n_rows, config.kv_heads, size, config.width // config.n_heads)
        like = self.norm.get_parameter("weight")

        def empty() -> Tensor:
            return torch.empty(shape, dtype=like.dtype, device=like.device)

        return KVCache([LayerCache(empty(), empty()) for _ in range(config.n_layers)])
