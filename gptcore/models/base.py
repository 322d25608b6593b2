"""Language models: networks that continue a text, and so can be asked for answers.

``Model`` is a decoder; ``Seq2Seq`` reads its input with an encoder, and answers with a decoder that sees what the
encoder has made of it.

Shapes: B rows, T positions, S positions of a source, C width, V outputs of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from gptcore.errors import ConfigError
from gptcore.models.network import Network, WordNetwork, WordNetworkConfig
from gptcore.nn.kv_cache import KVCache
from gptcore.nn.rows import row_ends


@dataclass(frozen=True)
class ModelConfig(WordNetworkConfig):
    """Sizes of a language model; ``build`` gives the module with fresh weights."""

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

    def least_numbers(self) -> int:
        """As of any network of words; each head has a row of its own width."""
        return max(super().least_numbers(), self.width * self.n_heads)


class Model(WordNetwork):
    """A decoder: features of each position, and a head over them."""

    config: ModelConfig
    abilities = frozenset({"generate", "summary", "words"})
    causal = True

    def features(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        lengths: Sequence[int] | None = None,
        packed: bool = False,
    ) -> Tensor:
        """(B, T) int64 token ids to (B, T, C) normalised features.

        Args:
            tokens: the rows, padded on the right; or packed, (1, N): the rows one after another.
            cache: its positions are continued.
            lengths: real positions of each row.
            packed: whether the rows are packed: each row's positions begin anew and see that row alone.

        Raises:
            ConfigError: more positions than ``context_length`` (or than the cache) can hold, or lengths that are not
                those of the rows.
        """
        if cache is None:
            return super().features(tokens, lengths=lengths, packed=packed)
        y: Tensor = self.norm(self._extend(tokens, cache))
        return y

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: KVCache | None = None,
        lengths: Sequence[int] | None = None,
        packed: bool = False,
    ) -> Tensor:
        """(B, T) int64 token ids to (B, T, V) logits."""
        logits: Tensor = self.head(self.features(tokens, cache=cache, lengths=lengths, packed=packed))
        return logits

    def summary(
        self, inputs: Mapping[str, Tensor], *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> Tensor:
        """The features (B, C) of each row's last real token, which alone has seen the whole row."""
        tokens = inputs["tokens"]
        sizes = [tokens.shape[1]] * len(tokens) if lengths is None else lengths
        ends = row_ends(sizes, packed=packed, device=tokens.device)
        return self.features_at(tokens, ends, lengths=lengths, packed=packed)

    def _extend(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """What the blocks make of tokens (B, T) behind those of the cache, (B, T, C), not yet normalised."""
        raise NotImplementedError

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache for ``n_rows`` rows of up to ``capacity`` (default: context_length) positions."""
        raise NotImplementedError

    def start(self, prompt: Sequence[int], cache: KVCache) -> Sequence[int]:
        """What is to be read before the first token of an answer: the prompt."""
        del cache
        return prompt

    def read(self, tokens: Tensor, *, cache: KVCache) -> None:
        """Take tokens (B, T) int64 up into the cache, behind what it holds; the caller counts them."""
        self.features(tokens, cache=cache)

    def next_logits(self, tokens: Tensor, *, cache: KVCache, n_last: int = 1) -> Tensor:
        """As ``read``; what may come after the last positions of each row, (B * n_last, V) logits."""
        logits: Tensor = self.head(self.features(tokens, cache=cache)[:, -n_last:].flatten(0, 1))
        return logits


class Memory(NamedTuple):
    """What an encoder has made of its rows."""

    features: Tensor
    """(B, S, C), padded on the right."""
    lengths: tuple[int, ...]
    """Real positions of each row."""


class Seq2Seq(WordNetwork):
    """An encoder of a source, and a decoder that answers with it in sight.

    Its ``features`` are the encoder's, which ``summary`` reads; ``decode`` are the decoder's, for a loss over the
    answer. ``Batch.lengths`` are those of the source.
    """

    abilities = frozenset({"generate", "summary", "words"})
    entry_points = ("features", "features_at", "decode", "next_logits")

    def encode(self, source: Tensor, *, lengths: Sequence[int] | None = None) -> Memory:
        """What the encoder makes of a source (B, S) int64, padded on the right: its ``features``.

        Args:
            source: token ids.
            lengths: real positions of each row; without them all are real.

        Raises:
            ConfigError: more positions than ``context_length``.
        """
        sizes = tuple(lengths or [source.shape[1]] * len(source))
        return Memory(self.features(source, lengths=sizes), sizes)

    def decode(self, tokens: Tensor, memory: Memory) -> Tensor:
        """The decoder's normalised features (B, T, C) of the answers (B, T) int64, each position seeing what stands
        before it and all of its row's memory.

        Raises:
            ConfigError: more positions than ``context_length``.
        """
        raise NotImplementedError

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache for ``n_rows`` answers of up to ``capacity`` (default: context_length) positions, with room
        for a memory of each."""
        raise NotImplementedError

    def start(self, prompt: Sequence[int], cache: KVCache) -> Sequence[int]:
        """Encode a prompt, and lay the keys and values of its memory into the cache of one row.

        Returns:
            The tokens that every answer begins behind, for the decoder to read.
        """
        raise NotImplementedError

    def read(self, tokens: Tensor, *, cache: KVCache) -> None:
        """Take tokens (B, T) int64 of the answer up into an opened cache, behind what it holds."""
        self.next_logits(tokens, cache=cache)

    def next_logits(self, tokens: Tensor, *, cache: KVCache, n_last: int = 1) -> Tensor:
        """As ``read``; what may come after the last positions of each row, (B * n_last, V) logits."""
        raise NotImplementedError


def as_decoder(network: Network, *, purpose: str) -> Model:
    """A network as a decoder of text.

    Raises:
        ConfigError: it is of another kind; the text says what it is and what it can do.
    """
    if not isinstance(network, Model):
        network.require("generate", purpose=purpose)
        raise ConfigError(f"expected a decoder for {purpose}, got a {type(network).__name__}, which reads a source")
    return network
