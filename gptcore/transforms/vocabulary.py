"""Room for new special tokens: the embedding grows, the old rows stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from gptcore.config import set_by_path
from gptcore.errors import ConfigError
from gptcore.models.network import Network, WordNetworkConfig, as_words
from gptcore.nn.linear import StandIn
from gptcore.transforms.base import Transform


@dataclass(frozen=True)
class ExtendVocabulary(Transform):
    """Grow the token embedding (and the language-model head) to ``vocab_size`` rows.

    New rows start at the mean of the old ones plus small noise, which keeps the first predictions calm:
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html
    """

    vocab_size: int = 0
    """Rows afterwards; at least as many as before."""

    def apply(self, model: Network) -> Network:
        """Replace the embedding, and the head with it.

        Raises:
            ConfigError: the model reads no text, it would have to shrink, or its embedding is not plain.
        """
        words = as_words(model, purpose="new tokens")
        embedding = words.token_embedding
        if type(embedding) is not nn.Embedding:
            form = embedding.stored_as if isinstance(embedding, StandIn) else f"a {type(embedding).__name__}"
            raise ConfigError(f"the token embedding is {form}, and cannot be extended; extend the fp32 model")
        old = embedding.weight
        if self.vocab_size < old.shape[0]:
            raise ConfigError(f"vocab_size {self.vocab_size} is below the model's {old.shape[0]} rows")
        tied = isinstance(model.head, nn.Linear) and model.head.weight is old
        words.token_embedding = nn.Embedding.from_pretrained(self._grown(old), freeze=False)
        if tied:
            words.tie_head()
        elif isinstance(model.head, nn.Linear) and model.head.weight.shape[0] == old.shape[0]:
            head = nn.Linear(old.shape[1], self.vocab_size, bias=False)
            head.weight = nn.Parameter(self._grown(model.head.weight))
            model.head = head
        words.config = cast(WordNetworkConfig, set_by_path(words.config, "vocab_size", self.vocab_size))
        return model

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mean = old.mean(dim=0, keepdim=True)
            extra = mean + 0.02 * torch.randn(self.vocab_size - old.shape[0], old.shape[1])
            return torch.cat([old, extra])
