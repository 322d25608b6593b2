"""What a Generator calls: anything that says what may come next is answered from, whatever family it is of.

Shapes: B rows, T positions, V outputs of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.kv_cache import KVCache


class Sizes(Protocol):
    """The bounds of what can be decoded."""

    @property
    def vocab_size(self) -> int:
        """Every token id is below it."""

    @property
    def context_length(self) -> int:
        """The most positions of a prompt, or of a prompt and its answer where both stand in one row."""


class Decodable(Protocol):
    """A network that continues texts token by token, such as ``Model`` and ``Seq2Seq``."""

    training: bool
    """Whether it is in training mode."""

    @property
    def config(self) -> Sizes:
        """Its bounds."""

    def train(self, mode: bool = True) -> Any:
        """Go into training mode, or out of it."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors, one of which says on which device it is."""

    def new_cache(self, n_rows: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache for ``n_rows`` rows of up to ``capacity`` positions."""
        ...

    def start(self, prompt: Sequence[int], cache: KVCache) -> Sequence[int]:
        """The tokens to be read before the first one of an answer, at least one; what else the prompt gives, such as an
        encoder's memory, is laid into the cache of this one row."""
        ...

    def read(self, tokens: Tensor, *, cache: KVCache) -> None:
        """Take tokens (B, T) int64 up into the cache, behind what it holds; the caller counts them."""
        ...

    def next_logits(self, tokens: Tensor, *, cache: KVCache, n_last: int = 1) -> Tensor:
        """As ``read``; what may come after the last positions of each row, (B * n_last, V) logits."""
        ...


def decodable(network: Network | Decodable, *, purpose: str) -> Decodable:
    """The network as one that can be decoded.

    Raises:
        ConfigError: it cannot.
    """
    if isinstance(network, Network):
        network.require("generate", purpose=purpose)
    if not hasattr(network, "next_logits"):
        raise ConfigError(f"expected a network with next_logits for {purpose}, got a {type(network).__name__}")
    return cast(Decodable, network)
