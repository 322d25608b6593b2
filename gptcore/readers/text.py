"""TextReader: which tokens of a text a classifier reads. What stands for the row is the network's own to say.

A text longer than the context keeps its head, its tail, or both; for 510 tokens "head+tail" keeps 128 + 382 of a text
up to 800 tokens and 256 + 254 of a longer one, scaled to the context (after Sun et al. 2019, "How to Fine-Tune BERT for
Text Classification?", https://arxiv.org/abs/1905.05583, section 5.3.1).

Shapes: T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptcore.config import Config
from gptcore.errors import ConfigError
from gptcore.tokenizer import Tokenizer

LongInputs = Literal["head", "tail", "head+tail"]
"""Which part of a text that is longer than the context is read."""


class TextRow(NamedTuple):
    """A text as it was read."""

    ids: NDArray[np.int64]
    """(T,) token ids, the end token among them; empty for an empty text without end token."""
    n_read: int
    """Tokens of the text that are among them."""
    n_left_out: int
    """Tokens of the text that did not fit."""


@dataclass(frozen=True)
class TextReader(Config):
    """How a text becomes the row of tokens that is classified: the same in training, measuring and every export.

    The defaults are how classifiers were read before their checkpoints said so.
    """

    long_inputs: LongInputs = "head"
    """Which part of a longer text is read."""
    end_token: bool = True
    """Whether ``<|endoftext|>`` ends the row."""
    longest: int | None = None
    """Longest row in tokens, the end token among them; None: the model's ``context_length``."""

    def read(self, text: str, *, tokenizer: Tokenizer, context_length: int) -> TextRow:
        """The row of one text.

        Args:
            text: ordinary text; special tokens in it are not recognised.
            tokenizer: the checkpoint's.
            context_length: the most positions of the model, at least 2.

        Raises:
            ConfigError: the row would have room for fewer than 2 tokens.
        """
        room = self.room(context_length)
        whole = np.array(tokenizer.encode(text), dtype=np.int64)
        kept = cut_long(whole, context_length=room - self.end_token, keep=self.long_inputs)
        ids = np.append(kept, tokenizer.end_of_text) if self.end_token else kept
        return TextRow(ids, len(kept), len(whole) - len(kept))

    def room(self, context_length: int) -> int:
        """The most tokens of a row, the end token among them.

        Raises:
            ConfigError: fewer than 2.
        """
        room = context_length if self.longest is None else min(context_length, self.longest)
        if room < 2:
            raise ConfigError(f"expected room for at least 2 tokens of a text, got {room}; raise context_length")
        return room

    def within(self, context_length: int) -> TextReader:
        """The same for a model of this context; a ``longest`` that is the whole context needs no saying."""
        whole = self.longest is not None and self.longest >= context_length
        return replace(self, longest=None) if whole else self


def cut_long(tokens: NDArray[np.int64], *, context_length: int, keep: LongInputs) -> NDArray[np.int64]:
    """The part of ``tokens`` (n,) that fits: (min(n, context_length),)."""
    n = len(tokens)
    if n <= context_length:
        return tokens
    if keep == "head":
        return tokens[:context_length]
    if keep == "tail":
        return tokens[n - context_length :]
    share = 128 / 510 if n * 510 <= 800 * context_length else 256 / 510
    head = min(max(1, round(share * context_length)), context_length - 1)
    return np.concatenate([tokens[:head], tokens[n - (context_length - head) :]])
