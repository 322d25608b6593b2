"""GPT-2: a causal decoder with learned positions.

"Language Models are Unsupervised Multitask Learners", Radford et al. 2019, and the released code's details: pre-norm
blocks, tanh-GELU, layer-norm epsilon 1e-5, normal(0, 0.02) initialisation, residual projections scaled by
1/sqrt(2 n_layers), a head tied to the token embedding.

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
from gptcore.nn import mixing
from gptcore.nn.block import Block
from gptcore.nn.kv_cache import KVCache, LayerCache
from gptcore.nn.mixing import cached, causal
from gptcore.nn.rows import row_positions


@dataclass(frozen=True)
class GPTConfig(ModelConfig):
    """Sizes and switches of a GPT-2-class model."""

    vocab_size: int = 50257
    """Rows of the token embedding; every token id is below it."""
    context_length: int = 1024
    """The most positions the model can see at once."""
    width: int = 768
    """Width of the residual stream."""
    n_layers: int = 12
    """Number of blocks."""
    n_heads: int = 12
    """Attention heads per block; width is a multiple of it, unless ``head_width`` is given."""
    head_width: int | None = None
    """Width of each head; none: width / n_heads. A model whose heads were pruned has fewer of the old width."""
    hidden_width: int | None = None
    """Width inside the feed-forward layers; none: four times the width."""
    dropout: float = 0.0
    """Dropout probability on embeddings, attention weights and both sub-blocks' outputs."""
    qkv_bias: bool = True
    """Whether the query/key/value projection has a bias (GPT-2: yes; the book: no)."""
    tied_head: bool = True
    """Whether the output head shares the token embedding's weights."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        for name in ("vocab_size", "context_length", "width", "n_layers", "n_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        for name in ("head_width", "hidden_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"expected {name} to be at least 1, or none, got {value}")
        if self.head_width is None and self.width % self.n_heads:
            raise ConfigError(f"width {self.width} is not a multiple of n_heads {self.n_heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"expected dropout to be at least 0 and below 1, got {self.dropout}")

    @property
    def head_size(self) -> int:
        """Width of each attention head."""
        return self.head_width or self.width // self.n_heads

    @property
    def hidden_size(self) -> int:
        """Width inside the feed-forward layers."""
        return self.hidden_width or 4 * self.width

    def build(self) -> GPT:
        """A new model with random weights from torch's global generator."""
        return GPT(self)


PRESETS: dict[str, GPTConfig] = {
    "gpt2-small": GPTConfig(),
    "gpt2-medium": GPTConfig(width=1024, n_layers=24, n_heads=16),
    "gpt2-large": GPTConfig(width=1280, n_layers=36, n_heads=20),
    "gpt2-xl": GPTConfig(width=1600, n_layers=48, n_heads=25),
    "mini": GPTConfig(context_length=256, width=384, n_layers=6, n_heads=6),
    "micro": GPTConfig(context_length=256, width=192, n_layers=4, n_heads=4),
    "nano": GPTConfig(context_length=64, width=32, n_layers=2, n_heads=2),
}
"""Named sizes: OpenAI's four (124M, 355M, 774M, 1558M parameters) and three small ones."""


def initialise(module: nn.Module, *, n_layers: int) -> None:
    """Draw all weights below ``module`` as GPT-2 does, for a model of ``n_layers`` blocks."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() < 2:
            nn.init.ones_(parameter)  # the gain of a layer norm
        else:
            residual = name.endswith(("attention.out.weight", "feedforward.down.weight"))
            nn.init.normal_(parameter, std=0.02 * ((2 * n_layers) ** -0.5 if residual else 1.0))


class GPT(Model):
    """The GPT-2 decoder."""

    config: GPTConfig
    block_entry_points = ("at",)

    def __init__(self, config: GPTConfig) -> None:
        """Build all layers and draw their weights."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)
        self.blocks = nn.ModuleList(
            Block(
                width=config.width,
                n_heads=config.n_heads,
                head_width=config.head_width,
                hidden_width=config.hidden_width,
                dropout=config.dropout,
                qkv_bias=config.qkv_bias,
            )
            for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(config.width)
        # a tied head's own weights would be drawn and thrown away, and are the largest tensor there is
        place = "meta" if config.tied_head else None
        self.head = nn.Linear(config.width, config.vocab_size, bias=False, device=place)
        if config.tied_head:
            self.tie_head()
        initialise(self, n_layers=config.n_layers)

    def _features(self, looked_up: Tensor, lengths: Sequence[int] | None, packed: bool) -> Tensor:
        rows = self._row_lengths(looked_up, lengths, packed)
        x = self._add_positions(looked_up, rows)
        mix = causal if rows is None else mixing.packed(rows)
        for block in self.blocks:
            x = block(x, mix=mix)
        y: Tensor = self.norm(x)
        return y

    def features_at(
        self, tokens: Tensor, positions: Tensor, *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> Tensor:
        """Features (B, C) at one position of each row; arguments as of ``WordNetwork.features_at``.

        The last block is computed at those positions alone: with few blocks that is nearly half of the work. Packed,
        they are the rows' last ones.

        Raises:
            ConfigError: more positions than ``context_length``, or lengths that are not those of the rows.
        """
        looked_up = self.token_embedding(tokens)
        rows = self._row_lengths(looked_up, lengths, packed)
        x = self._add_positions(looked_up, rows)
        mix = causal if rows is None else mixing.packed(rows)
        *below, last = self.blocks
        for block in below:
            x = block(x, mix=mix)
        assert isinstance(last, Block)
        y: Tensor = self.norm(last.at(x, positions, lengths=rows)).squeeze(1)
        return y

    def _extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        n_new = tokens.shape[1]
        self._check_length(int(cache.lengths.max()) + n_new, cache.capacity)
        x: Tensor = self.token_embedding(tokens) + self.position_embedding(cache.positions(n_new))
        for block, mix in zip(self.blocks, cached(cache, n_new), strict=True):
            x = block(x, mix=mix)
        return x

    def _add_positions(self, looked_up: Tensor, rows: Sequence[int] | None) -> Tensor:
        """The tokens' embeddings (B, T, C) with those of their positions, which begin anew in each packed row."""
        table = self.position_embedding.weight
        placed = table[: looked_up.shape[1]] if rows is None else table[row_positions(rows, device=table.device)]
        return F.dropout(looked_up + placed, self.config.dropout, self.training)

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache for ``n_rows`` rows of up to ``capacity`` (default: context_length) positions."""
        size = min(capacity or self.config.context_length, self.config.context_length)
        shape = (n_rows, self.config.n_heads, size, self.config.head_size)
        like = self.position_embedding.weight

        def empty() -> Tensor:  # what no row has written is never read, and costs no memory until it is
            return torch.empty(shape, dtype=like.dtype, device=like.device)

        return KVCache([LayerCache(empty(), empty()) for _ in range(self.config.n_layers)])
