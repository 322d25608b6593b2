"""Families that live in the tests alone: a decoder, an encoder, an encoder-decoder and a network of images.

Each is as small as it can be, and is nowhere known to the project: what holds for these holds for a family to come.

Shapes: B rows, T positions, S positions of a source, C width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptcore.errors import ConfigError
from gptcore.models import Memory, Model, ModelConfig, Network, NetworkConfig, Seq2Seq, WordNetwork, WordNetworkConfig
from gptcore.nn import mixing
from gptcore.nn.block import Block
from gptcore.nn.kv_cache import KVCache, LayerCache, MemoryCache
from gptcore.nn.mixing import Mix
from gptcore.nn.rows import row_means, row_positions

SIZES: dict[str, Any] = {"vocab_size": 300, "context_length": 32, "width": 32, "n_layers": 2}


class Words(WordNetwork):
    """The beginning of all that read text here: tokens and their positions."""

    def __init__(self, config: WordNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context_length, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    def placed(self, looked_up: Tensor, rows: Sequence[int] | None) -> Tensor:
        """(B, T, C) with the positions, which begin anew in each packed row."""
        places = row_positions(rows or [looked_up.shape[1]], device=looked_up.device)
        return looked_up + self.position_embedding(places)


@dataclass(frozen=True)
class HouseDecoderConfig(ModelConfig):
    """Sizes of the decoder."""

    vocab_size: int = 300
    context_length: int = 32
    width: int = 32
    n_layers: int = 2
    n_heads: int = 2
    dropout: float = 0.0
    tied_head: bool = False

    def build(self) -> HouseDecoder:
        """Fresh weights."""
        return HouseDecoder(self)


class HouseDecoder(Words, Model):
    """Blocks of GPT-2's kind over learned positions."""

    config: HouseDecoderConfig

    def __init__(self, config: HouseDecoderConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(Block(width=config.width, n_heads=config.n_heads) for _ in range(config.n_layers))

    def _features(self, looked_up: Tensor, lengths: Sequence[int] | None, packed: bool) -> Tensor:
        rows = self._row_lengths(looked_up, lengths, packed)
        mix = mixing.causal if rows is None else mixing.packed(rows)
        x = self.placed(looked_up, rows)
        for block in self.blocks:
            x = block(x, mix=mix)
        y: Tensor = self.norm(x)
        return y

    def _extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        n_new = tokens.shape[1]
        x: Tensor = self.token_embedding(tokens) + self.position_embedding(cache.positions(n_new))
        for block, mix in zip(self.blocks, mixing.cached(cache, n_new), strict=True):
            x = block(x, mix=mix)
        return x

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """Empty, up to the context."""
        return KVCache(_layers(self.config, n_rows, min(capacity or 10**9, self.config.context_length)))


def _layers(config: Any, n_rows: int, size: int) -> list[LayerCache]:
    shape = (n_rows, config.n_heads, size, config.width // config.n_heads)
    return [LayerCache(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.n_layers)]


@dataclass(frozen=True)
class HouseEncoderConfig(WordNetworkConfig):
    """Sizes of the encoder."""

    vocab_size: int = 300
    context_length: int = 32
    width: int = 32
    n_layers: int = 2
    dropout: float = 0.0
    n_heads: int = 2

    def build(self) -> HouseEncoder:
        """Fresh weights."""
        return HouseEncoder(self)


class EncoderBlock(nn.Module):
    """After "Attention Is All You Need": norms behind the sub-blocks, and nothing of GPT-2's classes or names."""

    def __init__(self, config: HouseEncoderConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query, self.key, self.value, self.mixed = (nn.Linear(config.width, config.width) for _ in range(4))
        self.inner, self.outer = nn.Linear(config.width, 2 * config.width), nn.Linear(2 * config.width, config.width)
        self.first, self.second = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mix: Mix) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        heads = (layer(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for layer in self._projections())
        seen = mix(*heads, 0.0).transpose(1, 2).flatten(2)
        x = self.first(x + self.drop(self.mixed(seen)))
        y: Tensor = self.second(x + self.drop(self.outer(self.inner(x).relu())))
        return y

    def _projections(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.query, self.key, self.value


class HouseEncoder(Words):
    """Sees both ways; its summary is the mean of the real positions."""

    config: HouseEncoderConfig

    def __init__(self, config: HouseEncoderConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))

    def _features(self, looked_up: Tensor, lengths: Sequence[int] | None, packed: bool) -> Tensor:
        rows = self._row_lengths(looked_up, lengths, packed)
        mix = both_ways(lengths) if rows is None else mixing.packed(rows, inner=mixing.full)
        x = self.placed(looked_up, rows)
        for block in self.blocks:
            x = block(x, mix)
        y: Tensor = self.norm(x)
        return y

    def summary(
        self, inputs: Mapping[str, Tensor], *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> Tensor:
        """(B, C) the mean."""
        return row_means(self.features(inputs["tokens"], lengths=lengths, packed=packed), lengths, packed=packed)


def both_ways(lengths: Sequence[int] | None) -> Mix:
    """All real positions are seen."""
    return mixing.full if lengths is None else mixing.padded(lengths)


@dataclass(frozen=True)
class HouseSeq2SeqConfig(HouseEncoderConfig):
    """Sizes of the encoder-decoder."""

    start_token: int = 0

    def build(self) -> HouseSeq2Seq:  # type: ignore[override]
        """Fresh weights."""
        return HouseSeq2Seq(self)


class DecoderBlock(nn.Module):
    """A block of GPT-2's kind, and a look at the memory behind it."""

    def __init__(self, config: HouseSeq2SeqConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.own = Block(width=config.width, n_heads=config.n_heads)
        self.norm = nn.LayerNorm(config.width)
        self.query, self.key, self.value, self.mixed = (nn.Linear(config.width, config.width) for _ in range(4))

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, H, T, D)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def shown(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, D) of a memory (B, S, C)."""
        return self.heads(self.key(memory)), self.heads(self.value(memory))

    def forward(self, x: Tensor, mix: Mix, shown: tuple[Tensor, Tensor], look: Mix) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = self.own(x, mix=mix)
        seen = look(self.heads(self.query(self.norm(x))), *shown, 0.0).transpose(1, 2).flatten(2)
        y: Tensor = x + self.mixed(seen)
        return y


class HouseSeq2Seq(Words, Seq2Seq):
    """Its source is read both ways, its answer is written from left to right."""

    config: HouseSeq2SeqConfig
    block_entry_points = ("shown",)

    def __init__(self, config: HouseSeq2SeqConfig) -> None:
        super().__init__(config)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layers))

    def stacks(self) -> tuple[nn.ModuleList, ...]:
        """Both."""
        return self.encoder, self.blocks

    def _features(self, looked_up: Tensor, lengths: Sequence[int] | None, packed: bool) -> Tensor:
        if packed:
            raise ConfigError("expected padded rows, got packed ones; set train.packed to false")
        self._row_lengths(looked_up, lengths, packed)
        x, mix = self.placed(looked_up, None), both_ways(lengths)
        for block in self.encoder:
            x = block(x, mix)
        y: Tensor = self.norm(x)
        return y

    def summary(
        self, inputs: Mapping[str, Tensor], *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> Tensor:
        """(B, C) the mean of the source."""
        source = inputs.get("source", inputs.get("tokens"))
        assert source is not None
        return row_means(self.features(source, lengths=lengths, packed=packed), lengths, packed=packed)

    def decode(self, tokens: Tensor, memory: Memory) -> Tensor:
        """(B, T, C), for a loss."""
        x, look = self.placed(self.token_embedding(tokens), None), mixing.padded(memory.lengths)
        for block in self.blocks:
            x = block(x, mixing.causal, block.shown(memory.features), look)
        return x

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """Empty, with room for a memory."""
        length = self.config.context_length
        own, memory = (_layers(self.config, n_rows, size) for size in (min(capacity or length, length), length))
        return MemoryCache(own, memory=memory)

    def start(self, prompt: Sequence[int], cache: KVCache) -> Sequence[int]:
        """The prompt is the source."""
        assert isinstance(cache, MemoryCache)
        memory = self.encode(torch.tensor([list(prompt)]))
        for block, layer in zip(self.blocks, cache.memory, strict=True):
            layer.keys[:, :, : len(prompt)], layer.values[:, :, : len(prompt)] = block.shown(memory.features)
        cache.memory_lengths.fill_(len(prompt))
        return [self.config.start_token]

    def next_logits(self, tokens: Tensor, *, cache: KVCache, n_last: int = 1) -> Tensor:
        """(B * n_last, V)."""
        assert isinstance(cache, MemoryCache)
        n_new = tokens.shape[1]
        look = mixing.padded(cache.memory_lengths.clamp(min=1).tolist())
        x: Tensor = self.token_embedding(tokens) + self.position_embedding(cache.positions(n_new))
        mixes = mixing.cached(cache, n_new)
        for block, mix, layer in zip(self.blocks, mixes, cache.memory, strict=True):
            x = block(x, mix, (layer.keys, layer.values), look)
        logits: Tensor = self.head(x[:, -n_last:].flatten(0, 1))
        return logits


@dataclass(frozen=True)
class HouseViewerConfig(NetworkConfig):
    """Sizes of the network of images."""

    size: int = 8
    channels: int = 1
    width: int = 32
    n_layers: int = 1
    dropout: float = 0.0
    reads = ("size", "channels")

    def build(self) -> HouseViewer:
        """Fresh weights."""
        return HouseViewer(self)

    def check_fit(self, limits: Mapping[str, int]) -> None:
        """An image must be of just this size."""
        super().check_fit(limits)
        wrong = [name for name in self.reads if limits[name] != getattr(self, name)]
        if wrong:
            raise ConfigError(f"expected images of {wrong[0]} {getattr(self, wrong[0])}, got {limits[wrong[0]]}")


class HouseViewer(Network):
    """Patches of two by two see each other; the summary is their mean. A head is what a transform puts there."""

    config: HouseViewerConfig
    abilities = frozenset({"summary", "pixels"})

    def __init__(self, config: HouseViewerConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Linear(4 * config.channels, config.width)
        self.blocks = nn.ModuleList(Block(width=config.width, n_heads=2) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Identity()

    def summary(
        self, inputs: Mapping[str, Tensor], *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> Tensor:
        """(B, channels, size, size) fp32 pixels to (B, C)."""
        del lengths, packed
        x: Tensor = self.patches(nn.functional.unfold(inputs["pixels"], 2, stride=2).transpose(1, 2))
        for block in self.blocks:
            x = block(x, mix=mixing.full)
        y: Tensor = self.norm(x.mean(dim=1))
        return y
