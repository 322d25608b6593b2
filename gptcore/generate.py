"""Continue prompts: greedy or sampled, many ragged prompts at a time, over one preallocated key/value cache.

Nucleus sampling: "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751.

Shapes: B prompts, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptcore.config import Config
from gptcore.errors import ConfigError, DivergedError
from gptcore.models.base import Model


@dataclass(frozen=True)
class Sampling(Config):
    """How the next token is chosen and when to end."""

    max_new_tokens: int = 64
    """The most tokens to add."""
    temperature: float = 0.0
    """0 always takes the likeliest token; higher draws more widely."""
    top_k: int | None = None
    """Draw among the k likeliest only."""
    top_p: float | None = None
    """Draw among the likeliest that together reach this probability; at least one is kept."""
    seed: int = 0
    """Seed of the draws; each prompt has its own stream, so its answer does not depend on its neighbours."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1")


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    end_token: int | None = None,
    should_stop: Callable[[list[int]], bool] | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt, without the prompt and without ``end_token``.

    Args:
        model: a language model; its mode is put back afterwards.
        prompts: token ids, each at least one and leaving room for one more in the context.
        sampling: how to choose.
        end_token: ends a row.
        should_stop: called with a row's new tokens; True ends the row.
        on_token: called with (row, token) as tokens are chosen, for streaming.

    Raises:
        ConfigError: a prompt is empty or fills the whole context.
        DivergedError: the model gives NaN or infinite logits.
    """
    if not prompts:
        return []
    _check_prompts(prompts, model.config.context_length)
    was_training = model.training
    model.eval()
    try:
        return _decode(model, prompts, sampling, end_token, should_stop, on_token)
    finally:
        model.train(was_training)


def _check_prompts(prompts: Sequence[Sequence[int]], context_length: int) -> None:
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ConfigError(f"prompt {i} is empty; give at least one token, for example the end-of-text token")
        if len(prompt) >= context_length:
            raise ConfigError(
                f"prompt {i} has {len(prompt)} tokens, the model's context holds {context_length} "
                "and one must be free for the answer; shorten the prompt"
            )


def _decode(
    model: Model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    end_token: int | None,
    should_stop: Callable[[list[int]], bool] | None,
    on_token: Callable[[int, int], None] | None,
) -> list[list[int]]:
    lengths = torch.tensor([len(p) for p in prompts])
    longest = int(lengths.max())
    capacity = min(model.config.context_length, longest + sampling.max_new_tokens)
    limits = [min(sampling.max_new_tokens, model.config.context_length - len(p)) for p in prompts]
    generators = [torch.Generator().manual_seed(sampling.seed) for _ in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))  # which prompts are still open
    cache = model.new_cache(len(prompts), capacity=capacity)
    padded = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        padded[i, : len(prompt)] = torch.tensor(prompt)
    features = model.features(padded, cache=cache)  # (B, T, C)
    cache.advance(lengths)
    logits = model.head(features[torch.arange(len(prompts)), lengths - 1])  # (B, V)
    while True:
        chosen = _choose(logits, sampling, [generators[int(r)] for r in rows])
        open_rows = []
        for place, row in enumerate(rows.tolist()):
            token = int(chosen[place])
            if token == end_token:
                continue
            answers[row].append(token)
            if on_token:
                on_token(row, token)
            if len(answers[row]) < limits[row] and not (should_stop and should_stop(answers[row])):
                open_rows.append(place)
        if not open_rows:
            return answers
        if len(open_rows) < len(rows):
            kept = torch.tensor(open_rows)
            rows, chosen, cache = rows[kept], chosen[kept], cache.select(kept)
        features = model.features(chosen[:, None], cache=cache)
        cache.advance(1)
        logits = model.head(features[:, -1])


def _choose(logits: Tensor, sampling: Sampling, generators: list[torch.Generator]) -> Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError(
            "the model gives NaN or infinite logits; its weights are damaged or it diverged in training"
        )
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(narrow(logits.float() / sampling.temperature, sampling), dim=-1)
    draws = [torch.multinomial(p, 1, generator=g) for p, g in zip(probabilities, generators, strict=True)]
    return torch.cat(draws)


def narrow(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) logits with everything outside top-k and top-p at minus infinity; ties never widen the choice."""
    if sampling.top_k is None and sampling.top_p is None:
        return logits
    ordered, places = logits.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        ordered[:, sampling.top_k :] = -torch.inf
    if sampling.top_p is not None:
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        ordered = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, places, ordered)
