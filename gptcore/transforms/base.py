"""Transform: a change of a model's structure that can be written down and replayed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from torch import nn

from gptcore.config import Config
from gptcore.models.network import Network

Head = Literal["words", "classes", "values", "labels"]
"""What a model's head gives: a distribution over words, over classes, numbers, or several labels at once."""


@dataclass(frozen=True)
class Transform(Config):
    """Base of all transforms."""

    merges_away: ClassVar[bool] = False
    """Whether nothing is left of it once the updates beside the layers are merged into plain ones."""

    @property
    def head(self) -> Head | None:
        """What the head gives afterwards; None if it stays the head it was."""
        return None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of a new head's outputs in their order; empty where they have none."""
        return ()

    def apply(self, model: Network) -> Network:
        """Change ``model`` in place and return it; new weights come from torch's global generator.

        Replaying on freshly built weights must give the same parameter names and shapes as on trained ones, so that
        a checkpoint's tensors fit afterwards. It also sets which parameters are trained.
        """
        raise NotImplementedError

    def for_blocks(self, n_blocks: int) -> Self:
        """The same for a model that has only so many blocks."""
        del n_blocks
        return self

    def with_trained_words(self) -> Self:
        """The same with a token embedding that is trained, for words that are new to the model."""
        return self


def stack_modules(model: Network) -> Collection[nn.Module]:
    """Every module inside the stacks that the model names."""
    return {module for stack in model.stacks() for module in stack.modules()}
