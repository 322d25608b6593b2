"""Another dropout probability for fine-tuning than for pretraining: small labelled sets need more of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from gptcore.config import set_by_path
from gptcore.errors import ConfigError
from gptcore.models.network import Network, NetworkConfig
from gptcore.nn.attention import CausalSelfAttention
from gptcore.nn.block import FeedForward
from gptcore.transforms.base import Transform


@dataclass(frozen=True)
class Dropout(Transform):
    """Set the dropout probability of embeddings, attention and feed-forward layers."""

    probability: float = 0.1
    """At least 0, below 1."""

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0.0 <= self.probability < 1.0:
            raise ConfigError(f"probability is {self.probability}; it must be at least 0 and below 1")

    def apply(self, model: Network) -> Network:
        """Set it everywhere."""
        model.config = cast(NetworkConfig, set_by_path(model.config, "dropout", self.probability))
        for part in model.modules():
            if isinstance(part, CausalSelfAttention | FeedForward):
                part.dropout = self.probability
        return model
