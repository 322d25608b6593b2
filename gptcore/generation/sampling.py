"""How the next token is chosen from the logits.

Nucleus (top-p): "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751. Min-p: "Turning Up
the Heat", https://arxiv.org/abs/2407.01082. Repetition penalty: CTRL, https://arxiv.org/abs/1909.05858, section 4.1.
They act in the order penalty, temperature, top-k, top-p, min-p, each on what the one before has left.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gptcore.config import Config
from gptcore.errors import ConfigError

_FIRST_LOOK = 512
"""Likeliest tokens that are sorted before all are: nearly always they reach top-p."""


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
    min_p: float | None = None
    """Draw among those that are at least so likely as this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Divides what speaks for tokens that stand in the prompt or the answer; 1 leaves it, above 1 avoids repetition."""
    seed: int = 0
    """Seed of the draws; each prompt has its own stream, so its answer does not depend on its neighbours."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.max_new_tokens < 1:
            raise ConfigError(f"expected max_new_tokens to be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"expected temperature to be 0 or more, and finite, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"expected top_k to be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"expected top_p to be above 0 and at most 1, got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"expected min_p to be from 0 to 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"expected repetition_penalty to be above 0, and finite, got {self.repetition_penalty}")
        if not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"expected seed to fit 64 bits, got {self.seed}")


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """(V,) logits with those of ``seen`` (V,) bool tokens made smaller: divided if positive, else multiplied."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def narrow(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) logits with everything outside top-k, top-p and min-p at minus infinity; ties never widen the choice."""
    if sampling.top_k is None and sampling.top_p is None and not sampling.min_p:
        return logits
    ordered, places = _likeliest(logits, sampling)
    if sampling.top_p is not None:
        total = ordered if sampling.top_k is not None else logits
        probabilities = (ordered - total.logsumexp(dim=-1, keepdim=True)).exp()
        before = probabilities.cumsum(dim=-1) - probabilities
        ordered = ordered.masked_fill(before >= sampling.top_p, -torch.inf)
        ordered[:, 0] = logits.gather(-1, places[:, :1]).squeeze(-1)  # rounding may not take the likeliest one
    if sampling.min_p:
        ordered = ordered.masked_fill(ordered < ordered[:, :1] + math.log(sampling.min_p), -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, places, ordered)


def _likeliest(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Logits and ids, (B, n) each, the likeliest first: as many as top-k and top-p can leave."""
    n_tokens = logits.shape[-1]
    if sampling.top_k is not None:
        return logits.topk(min(sampling.top_k, n_tokens), dim=-1)
    if n_tokens > _FIRST_LOOK:
        ordered, places = logits.topk(_FIRST_LOOK, dim=-1)
        mass = (ordered.logsumexp(dim=-1) - logits.logsumexp(dim=-1)).exp()
        # min-p keeps what is not far below the first: the last one seen then shows whether others are kept, too
        reached = sampling.top_p is not None and bool((mass > sampling.top_p + 1e-4).all())
        below = bool(sampling.min_p) and bool((ordered[:, -1] < ordered[:, 0] + math.log(sampling.min_p or 1.0)).all())
        if reached or (below and sampling.top_p is None):
            return ordered, places
    return logits.sort(dim=-1, descending=True, stable=True)


def sample_token(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token from (V,) logits: the likeliest at temperature 0, else by one number of the generator.

    The token is the first, in the order of ids, at which the summed probabilities exceed the number.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    cooled = (logits.double() - logits.max()) / sampling.temperature  # a tiny temperature overflows to -inf alone
    chances = narrow(cooled.float()[None], sampling)[0].double().softmax(dim=0)
    sums = chances.cumsum(dim=0)
    number = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
    place = int(torch.searchsorted(sums, number, right=True))
    return place if place < len(sums) else int(chances.nonzero()[-1])  # rounding may bring it up to the sum itself
