"""Speculative decoding: a small model drafts, the large one checks several tokens in one pass over its weights.

"Fast Inference from Transformers via Speculative Decoding", https://arxiv.org/abs/2211.17192, for greedy decoding: a
drafted token stays if it is the one that the large model itself would have taken, so the answer is the large model's
own. It pays where reading the weights is what a step costs, and the draft is often right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptcore.errors import ConfigError, DivergedError, TokenizerMismatch
from gptcore.generation.decodable import Decodable


@dataclass(frozen=True)
class Speculated:
    """A greedy answer, and how it came about."""

    tokens: list[int]
    """The new tokens, without the prompt and without the end token."""
    n_passes: int
    """Passes of the large model after the prompt; without a draft there would be one a token."""
    n_drafted: int
    """Tokens that the draft has proposed."""
    n_accepted: int
    """Those of them that stayed."""


class _Reader:
    """A model with what it has read of the text."""

    def __init__(self, model: Decodable, capacity: int) -> None:
        self.model = model
        self.cache = model.new_cache(1, capacity=capacity)
        self.n_read = 0

    def read(self, text: Sequence[int], *, n_last: int) -> Tensor:
        """Read the text from where this reader stands; the likeliest next tokens (n_last) after its last positions."""
        new = torch.tensor([text[self.n_read :]], device=self.cache.lengths.device)
        logits = self.model.next_logits(new, cache=self.cache, n_last=n_last)
        self.cache.advance(new.shape[1])
        self.n_read = len(text)
        if not bool(logits.sum(dim=-1).isfinite().all()):
            raise DivergedError(
                "the model gives NaN or infinite logits; its weights are damaged or it diverged in training"
            )
        return logits.argmax(dim=-1)

    def forget(self, n_kept: int) -> None:
        """Go back to the first ``n_kept`` tokens of the text, if more were read."""
        self.n_read = min(self.n_read, n_kept)
        self.cache.lengths.fill_(self.n_read)


@torch.no_grad()
def speculate(
    model: Decodable,
    prompt: Sequence[int],
    *,
    draft: Decodable,
    max_new_tokens: int,
    n_ahead: int = 4,
    end_token: int | None = None,
) -> Speculated:
    """The greedy answer of ``model``, with the help of ``draft``.

    Args:
        model: the large model, in evaluation mode.
        prompt: token ids, at least one, leaving room for one more in both contexts.
        draft: a smaller model with the same vocabulary, in evaluation mode.
        max_new_tokens: the most tokens to add.
        n_ahead: tokens drafted before each check.
        end_token: ends the answer.

    Raises:
        ConfigError: a number is below 1, a model is in training mode, or the prompt is empty or fills a context.
        TokenizerMismatch: the vocabularies differ in size.
        DivergedError: a model gives NaN or infinite logits.
    """
    room = _check_room(model, draft, prompt, max_new_tokens, n_ahead)
    capacity = len(prompt) + min(max_new_tokens, room)
    large, small = _Reader(model, capacity), _Reader(draft, capacity)
    text = [*prompt, int(large.read(prompt, n_last=1))]
    n_passes = n_drafted = n_accepted = 0
    while len(text) < capacity and text[-1] != end_token:
        ahead = _draft_tokens(small, text, min(n_ahead, capacity - len(text) - 1), end_token)
        checked = large.read(text + ahead, n_last=len(ahead) + 1).tolist()
        n_right = next((i for i, token in enumerate(ahead) if token != checked[i]), len(ahead))
        text += checked[: n_right + 1]
        for reader in (large, small):
            reader.forget(len(text) - 1)
        n_passes, n_drafted, n_accepted = n_passes + 1, n_drafted + len(ahead), n_accepted + n_right
        if end_token in text[-n_right - 1 :]:
            text = text[: text.index(end_token, len(text) - n_right - 1) + 1]
    tokens = text[len(prompt) :]
    return Speculated(tokens[:-1] if tokens[-1] == end_token else tokens, n_passes, n_drafted, n_accepted)


def _draft_tokens(small: _Reader, text: list[int], n: int, end_token: int | None) -> list[int]:
    ahead: list[int] = []
    while len(ahead) < n and (not ahead or ahead[-1] != end_token):
        ahead.append(int(small.read(text + ahead, n_last=1)))
    return ahead


def _check_room(model: Decodable, draft: Decodable, prompt: Sequence[int], max_new_tokens: int, n_ahead: int) -> int:
    """How many tokens there is room for in both contexts."""
    for name, value in (("max_new_tokens", max_new_tokens), ("n_ahead", n_ahead)):
        if value < 1:
            raise ConfigError(f"expected {name} to be at least 1, got {value}")
    if model.training or draft.training:
        raise ConfigError("a model is in training mode, where dropout makes its answers random; call eval() before")
    if draft.config.vocab_size != model.config.vocab_size:
        raise TokenizerMismatch(
            f"expected a draft with the model's vocabulary of {model.config.vocab_size} tokens, got one of "
            f"{draft.config.vocab_size}; choose a draft that was trained with the model's tokenizer"
        )
    context = min(model.config.context_length, draft.config.context_length)
    if not 0 < len(prompt) < context:
        raise ConfigError(
            f"expected a prompt of 1 to {context - 1} tokens, since the smaller of the two contexts holds {context} "
            f"and one is for the answer, got {len(prompt)}; shorten the prompt"
        )
    return context - len(prompt)
