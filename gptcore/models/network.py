"""What every network offers to the rest of gptcore: how it is trained, sharded, counted and refused.

A network says what it is good for by its abilities, not by its class: whoever needs one asks with ``require``.

Shapes: B rows, T positions, C width, V outputs of the head (vocabulary, or classes after it was swapped), N positions
of all packed rows together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from gptcore.config import Config
from gptcore.errors import ConfigError
from gptcore.models.work import Work
from gptcore.nn.recompute import recompute
from gptcore.nn.rows import resolve_rows
from gptcore.nn.tied import look_up_tied

Ability = Literal["generate", "summary", "words", "pixels"]
"""What a network can do: continue a text, sum its input up in one vector, read token ids, read images."""
_PHRASES: dict[Ability, str] = {
    "generate": "generate text",
    "summary": "sum up its input in one vector",
    "words": "read text",
    "pixels": "read images",
}


class NetworkConfig(Config):
    """Sizes of a network; ``build`` gives the module with fresh weights.

    The sizes named here are fields of every family's own dataclass, in an order of its own.
    """

    width: int
    """Width of the residual stream."""
    n_layers: int
    """Number of blocks."""
    dropout: float
    """Dropout probability."""
    reads: ClassVar[tuple[str, ...]] = ()
    """The fields that bound what such a network reads; data says its own bounds by the same names."""

    def build(self) -> Network:
        """A new network with random weights from torch's global generator."""
        raise NotImplementedError

    def least_numbers(self) -> int:
        """The fewest numbers that a network of these sizes can have: a file of weights with fewer is damaged."""
        return self.n_layers * self.width

    def check_fit(self, limits: Mapping[str, int]) -> None:
        """Refuse data that such a network cannot read.

        Args:
            limits: the data's bounds by name, such as ``vocab_size`` and ``context_length``, or ``size`` and
                ``channels``.

        Raises:
            ConfigError: the data is of another kind, or beyond a bound.
        """
        kind = type(self).__name__
        if set(limits) != set(self.reads):
            raise ConfigError(
                f"expected data bounded by {' and '.join(self.reads) or 'nothing'} for a {kind}, got data bounded by "
                f"{' and '.join(limits) or 'nothing'}; choose data of the kind that this network reads"
            )
        for name in self.reads:
            if limits[name] > getattr(self, name):
                raise ConfigError(self._explain_excess(name, limits[name]))

    def _explain_excess(self, name: str, value: int) -> str:
        """What is said of data whose bound is above the network's own."""
        return (
            f"the data has {name} {value}, the network reads up to {getattr(self, name)}; set model.{name} to {value}"
        )

    def describe(self) -> str:
        """The sizes as a person reads them."""
        sizes = ", ".join(f"{f.name} {getattr(self, f.name)}" for f in dataclasses.fields(self))
        return f"{type(self).__name__} ({sizes})"


class WordNetworkConfig(NetworkConfig):
    """Sizes of a network that reads token ids."""

    vocab_size: int
    """Rows of the token embedding; every token id is below it."""
    context_length: int
    """The most positions the network can see at once."""
    reads: ClassVar[tuple[str, ...]] = ("vocab_size", "context_length")

    def build(self) -> WordNetwork:
        """A new network with random weights from torch's global generator."""
        raise NotImplementedError

    def least_numbers(self) -> int:
        """As of any network, with the token embedding and something of each position."""
        return super().least_numbers() + self.context_length + self.vocab_size * self.width

    def _explain_excess(self, name: str, value: int) -> str:
        if name == "vocab_size":
            return (
                f"the data has token ids up to {value - 1}, the model's vocabulary has only {self.vocab_size} tokens; "
                "set model.vocab_size to the tokenizer's"
            )
        return (
            f"the data is cut to {value} positions, the model's context_length is {self.context_length}; lower "
            "data.context_length or choose a larger model"
        )


class Network(nn.Module):
    """Blocks and a head over what they make of an input."""

    config: NetworkConfig
    blocks: nn.ModuleList
    head: nn.Module
    abilities: ClassVar[frozenset[Ability]] = frozenset()
    """What it can do."""
    causal: ClassVar[bool] = False
    """Whether the features of a position depend on nothing that stands behind it."""
    entry_points: ClassVar[tuple[str, ...]] = ("summary",)
    """Methods by which it is used beside ``forward``: where its parameters are spread, these gather them."""
    block_entry_points: ClassVar[tuple[str, ...]] = ()
    """The same of its blocks, of those that have them."""

    def stacks(self) -> tuple[nn.ModuleList, ...]:
        """Its stacks of blocks, from the input on."""
        return (self.blocks,)

    def each_block(self) -> Iterator[nn.Module]:
        """The blocks of all stacks, one by one."""
        for stack in self.stacks():
            yield from stack

    @property
    def summary_width(self) -> int:
        """C of ``summary``: what a head over it reads."""
        return self.config.width

    def summary(
        self, inputs: Mapping[str, Tensor], *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> Tensor:
        """One vector of each row (B, C), for a head of classes or values.

        Args:
            inputs: as in ``Batch.inputs``.
            lengths: real positions of each row; without them all are real.
            packed: whether the rows stand one after another in one.

        Raises:
            ConfigError: the network has no such summary.
        """
        del inputs, lengths, packed
        self.require("summary", purpose="a head of classes or values")
        raise NotImplementedError

    def operations(self) -> Work:
        """The arithmetic of a step, as the network is trained now."""
        tables = [p for m in self.modules() if isinstance(m, nn.Embedding) for p in m.parameters()]
        return Work.of(self.each_block(), self.head, width=self.config.width, looked_up=tables)

    def checkpoint_activations(self) -> None:
        """From now on compute each block's activations again in the backward pass instead of keeping them."""
        for block in self.each_block():
            recompute(block)

    def before_sharding(self) -> None:
        """Called before the parameters are spread over processes."""

    def require(self, ability: Ability, *, purpose: str) -> None:
        """Refuse a network that lacks an ability.

        Raises:
            ConfigError: it does; the text says what it is and what it can do.
        """
        if ability not in self.abilities:
            can = ", ".join(_PHRASES[name] for name in sorted(self.abilities)) or "nothing of the kind"
            raise ConfigError(
                f"expected a network that can {_PHRASES[ability]} for {purpose}, got a {type(self).__name__}, "
                f"which can: {can}"
            )


class WordNetwork(Network):
    """A network that reads token ids and has features of each position."""

    config: WordNetworkConfig
    token_embedding: nn.Module
    norm: nn.Module
    abilities = frozenset({"summary", "words"})
    entry_points: ClassVar[tuple[str, ...]] = ("features", "features_at")
    one_tied_gradient: bool = True
    """Whether a tied head and the embedding may share one gradient (``gptcore.nn.tied``)."""

    def features(self, tokens: Tensor, *, lengths: Sequence[int] | None = None, packed: bool = False) -> Tensor:
        """(B, T) int64 token ids to (B, T, C) normalised features.

        Args:
            tokens: the rows, padded on the right; or packed, (1, N): the rows one after another.
            lengths: real positions of each row; without them all are real.
            packed: whether the rows are packed: each row's positions begin anew and see that row alone.

        Raises:
            ConfigError: more positions than ``context_length``, or lengths that are not those of the rows.
        """
        return self._features(self.token_embedding(tokens), lengths, packed)

    def features_and_head(
        self, tokens: Tensor, *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """``features``, and the weights (V, C) of a linear head without bias, for a loss that never makes all logits.

        The loss must use these weights and not ``head.weight``. None if the head is of another kind.
        Where the embedding's weights are the head's, both share one gradient.

        Raises:
            ConfigError: more positions than ``context_length``, or lengths that are not those of the rows.
        """
        shared: Tensor | None = getattr(self.token_embedding, "weight", None)
        tied = getattr(self.head, "weight", None) is shared and self.one_tied_gradient
        if shared is None or not (tied and shared.requires_grad):
            plain = isinstance(self.head, nn.Linear) and self.head.bias is None
            features = self.features(tokens, lengths=lengths, packed=packed)
            return features, cast(nn.Linear, self.head).weight if plain else None
        looked_up, head = look_up_tied(shared, tokens)
        return self._features(looked_up, lengths, packed), head

    def _features(self, looked_up: Tensor, lengths: Sequence[int] | None, packed: bool) -> Tensor:
        """The features (B, T, C) of tokens whose embeddings (B, T, C) were looked up already."""
        raise NotImplementedError

    def features_at(
        self, tokens: Tensor, positions: Tensor, *, lengths: Sequence[int] | None = None, packed: bool = False
    ) -> Tensor:
        """The features (B, C) at one position of each row.

        Equal to picking them from ``features``; a family may save what the other positions' last block would cost.

        Args:
            tokens: (B, T) int64; or packed, (1, N) int64: the rows one after another.
            positions: (B,) int64, below T; packed, a place of each row in the order of the rows, below N.
            lengths: real positions of each row; without them all are real.
            packed: whether the rows are packed.
        """
        features = self.features(tokens, lengths=lengths, packed=packed)
        if packed:
            return features[0, positions]
        return features[torch.arange(len(tokens), device=tokens.device), positions]

    def forward(self, tokens: Tensor, *, lengths: Sequence[int] | None = None, packed: bool = False) -> Tensor:
        """(B, T) int64 token ids to (B, T, V) logits."""
        logits: Tensor = self.head(self.features(tokens, lengths=lengths, packed=packed))
        return logits

    def tie_head(self) -> None:
        """Let the head share the token embedding's weights."""
        assert isinstance(self.head, nn.Linear)
        assert isinstance(self.token_embedding, nn.Embedding)
        self.head.weight = self.token_embedding.weight

    def before_sharding(self) -> None:
        """The parameters are gathered again for the backward pass; a view of a tied weight would not be."""
        self.one_tied_gradient = False

    def _row_lengths(self, looked_up: Tensor, lengths: Sequence[int] | None, packed: bool) -> Sequence[int] | None:
        """The lengths of packed rows, None for rows that stand apart, after a look at whether they fit the context."""
        rows = resolve_rows(looked_up.shape, lengths, packed=packed)
        self._check_length(max(rows) if rows else looked_up.shape[1], self.config.context_length)
        return rows

    def _check_length(self, length: int, limit: int) -> None:
        if length > limit:
            raise ConfigError(
                f"{length} positions do not fit the model's context_length of {limit}; "
                "shorten the input or choose a model with a longer context"
            )


def as_words(network: Network, *, purpose: str) -> WordNetwork:
    """A network that reads token ids.

    Raises:
        ConfigError: it does not.
    """
    network.require("words", purpose=purpose)
    return cast(WordNetwork, network)
