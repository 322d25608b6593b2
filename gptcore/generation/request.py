"""What is asked of a Generator, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from gptcore.errors import ConfigError, DataError, GptcoreError, PromptTooLong
from gptcore.generation.sampling import Sampling

Finish = Literal["stop", "length", "cancelled", "error"]
"""Why an answer ended: at an end token or stop string; at its limit or the context's end; by the caller; by a fault."""
Overflow = Literal["refuse", "cut_front"]
"""What becomes of a prompt that is too long: an error, or the loss of its oldest tokens, counted in the answer."""


@dataclass(frozen=True)
class Request:
    """One prompt and how it is to be continued."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are chosen, and how many at most."""
    end_token: int | None = None
    """Ends the answer and is not part of it."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer and are not part of its text, wherever the borders of the tokens are."""
    reserve: int = 1
    """Positions of the context that the prompt must leave to the answer."""
    overflow: Overflow = "refuse"
    """What becomes of a prompt that does not leave them."""
    n_alternatives: int | None = None
    """None: no probabilities; 0: that of each chosen token; more: those of as many likeliest tokens, too."""

    def fit_prompt(self, *, context_length: int, vocab_size: int) -> tuple[list[int], int]:
        """The prompt as the model is given it, and how many tokens were cut from its front.

        Raises:
            ConfigError: the prompt is empty, a stop string is empty, or ``reserve`` is impossible.
            PromptTooLong: it is too long and not to be cut.
            DataError: a token id is outside the vocabulary.
        """
        if not self.prompt:
            raise ConfigError("the prompt is empty; give at least one token, for example the end-of-text token")
        if "" in self.stop:
            raise ConfigError("a stop string is empty, which would end every answer at once; leave it out")
        if not 1 <= self.reserve < context_length:
            raise ConfigError(f"expected reserve to be from 1 to {context_length - 1}, got {self.reserve}")
        room = context_length - self.reserve
        if len(self.prompt) > room and self.overflow == "refuse":
            raise PromptTooLong(
                f"the prompt has {len(self.prompt)} tokens, the model's context holds {context_length} and "
                f"{self.reserve} must be free for the answer; shorten the prompt"
            )
        kept = list(self.prompt[-room:])
        wrong = next((token for token in kept if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise DataError(f"token id {wrong} is outside the vocabulary (ids 0 to {vocab_size - 1})")
        return kept, len(self.prompt) - len(kept)


@dataclass(frozen=True)
class Token:
    """One token of an answer."""

    id: int
    """In the model's vocabulary."""
    logprob: float | None = None
    """Natural logarithm of the probability that the model gives it, before penalty, temperature and narrowing; None
    unless asked for."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """(id, logprob) of the likeliest tokens in its place, the likeliest first."""


@dataclass(frozen=True)
class Answer:
    """What became of a request."""

    tokens: tuple[Token, ...]
    """The new tokens, without the end token; those of a stop string are among them."""
    text: str
    """Their text up to a stop string; empty if the Generator has no tokenizer."""
    finish: Finish
    """Why it ended."""
    n_prompt: int
    """Tokens of the prompt that the model was given."""
    n_cut: int = 0
    """Tokens of the prompt that were cut from its front."""
    error: GptcoreError | None = None
    """What went wrong, if ``finish`` is ``error``."""

    @property
    def ids(self) -> list[int]:
        """The ids of the tokens."""
        return [token.id for token in self.tokens]
