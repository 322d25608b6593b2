"""A classification head in the place of the language-model head, and the choice of what is trained below it.

The features of the last real token go through one linear layer: with causal attention that position alone has seen the
whole text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import nn

from gptcore.errors import ConfigError
from gptcore.models.network import Network
from gptcore.nn.surgery import freeze
from gptcore.transforms.base import Head, Transform


@dataclass(frozen=True)
class Classifier(Transform):
    """Swap the head for one with an output per class."""

    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of their ids."""
    train: Literal["head", "last_blocks", "all"] = "last_blocks"
    """What is trained: the new head alone; the head, the final norm and the last ``n_blocks`` blocks; or everything."""
    n_blocks: int = 1
    """How many of the last blocks are trained with ``last_blocks``."""

    @property
    def head(self) -> Head:
        """Classes."""
        return "classes"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.labels

    def for_blocks(self, n_blocks: int) -> Self:
        """The same that trains no more blocks than there are."""
        return replace(self, n_blocks=min(self.n_blocks, n_blocks))

    def apply(self, model: Network) -> Network:
        """Change the head and freeze the rest as told.

        Raises:
            ConfigError: fewer than two classes, or more trained blocks than the model has.
        """
        if len(self.labels) < 2:
            raise ConfigError(f"a classifier needs at least 2 classes, got {list(self.labels)}")
        if not 0 <= self.n_blocks <= len(model.blocks):
            raise ConfigError(f"n_blocks is {self.n_blocks}, but the model has {len(model.blocks)} blocks")
        model.head = nn.Linear(model.summary_width, len(self.labels))
        nn.init.normal_(model.head.weight, std=0.02)
        nn.init.zeros_(model.head.bias)
        if self.train == "all":
            freeze(model, frozen=False)
            return model
        freeze(model)
        freeze(model.head, frozen=False)
        if self.train == "last_blocks":
            chosen = list(model.blocks)[len(model.blocks) - self.n_blocks :]
            for part in [*chosen, model.get_submodule("norm")]:
                freeze(part, frozen=False)
        return model
