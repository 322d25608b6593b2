"""The probability-weighted score: what the judge would have given on average, from its own probabilities.

At the token of the score the server reports the likeliest tokens with their log-probabilities. Those that are scores
are renormalised, and the mean over them is finer than the one integer that was written (G-Eval, Liu et al. 2023,
https://arxiv.org/abs/2303.16634). It is believed only where the score is one token and where the scores among the
alternatives hold at least half of the probability; else there is no weighted score, and the written one never stands
in for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eval.judge.client import NumberToken, Reply
from eval.types import MAX_SCORE, MIN_SCORE

LEAST_MASS: Final = 0.5
"""The share of probability that scores must hold among all tokens."""
TOP_LOGPROBS: Final = 20
"""Alternatives asked of the server for each token: the most it gives."""
_TAIL: Final = 8
"""Characters at the end of the answer that must be found in the tokens to know where in it they are."""
# A quotation mark inside a JSON string is escaped, so this cannot match inside the rationale.
_SCORE = re.compile(r'"score"\s*:\s*(\d+)')


@dataclass(frozen=True)
class WeightedScore:
    """A score from probabilities."""

    score: float | None
    """0..100; None if the scores hold less than ``LEAST_MASS``."""
    mass: float
    """The share of probability on scores before it was renormalised, 0..1."""


def find_number_tokens(content: str, tokens: Iterable[Mapping[str, Any]]) -> tuple[NumberToken, ...]:
    """The tokens of an answer that are numbers, as Ollama and OpenAI describe tokens (``token``, ``top_logprobs``).

    The others are left out: all alternatives of all tokens would make a record of the answer a hundred times larger.
    Empty if the tokens do not give the text.
    """
    entries = list(tokens)
    written = [str(entry.get("token", "")) for entry in entries]
    tail = content[-_TAIL:]
    # From the end, since a character that was split over tokens may be lost on the way; a token after the text is one
    # that ends it.
    tail_at = "".join(written).rfind(tail) if tail else -1
    if tail_at < 0:
        return ()
    shift = len(content) - len(tail) - tail_at
    found, position = [], shift
    for text, entry in zip(written, entries, strict=True):
        is_there = position >= 0 and content.startswith(text, position)
        if text.strip().isdecimal() and is_there and (alternatives := _read_alternatives(entry)):
            found.append(NumberToken(position, text, alternatives))
        position += len(text)
    return tuple(found)


def compute_weighted_score(reply: Reply) -> WeightedScore | None:
    """The weighted score of a readable pointwise reply.

    None without log-probabilities at the score, and where the score is, or may be, split into digits: where no
    alternative has two digits, the tokens of this model may be single ones, and say nothing of the score as a whole.
    """
    scores = _SCORE.findall(reply.content)
    match = _SCORE.search(reply.content)
    if match is None or len(scores) != 1:
        return None
    for number in reply.numbers:
        begins = number.start + len(number.text) - len(number.text.lstrip())
        if begins == match.start(1) and number.text.strip() == match[1]:
            return _average_scores(number.alternatives)
    return None


def _average_scores(alternatives: Iterable[tuple[str, float]]) -> WeightedScore | None:
    # One token may come with and without a blank before it: both mean the same score.
    each = [(score, math.exp(logprob)) for token, logprob in alternatives if (score := _parse_score(token)) is not None]
    if not any(score > 9 for score, _ in each):
        return None
    mass = math.fsum(probability for _, probability in each)
    if mass < LEAST_MASS:
        return WeightedScore(None, mass)
    return WeightedScore(math.fsum(score * probability for score, probability in each) / mass, min(mass, 1.0))


def _parse_score(token: str) -> int | None:
    text = token.strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > 3 or str(int(text)) != text:
        return None
    return int(text) if MIN_SCORE <= int(text) <= MAX_SCORE else None


def _read_alternatives(entry: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    likeliest = entry.get("top_logprobs") or ()
    found: dict[str, float] = {}
    # The written token comes last: it is not among the likeliest if the form forced it.
    for one in (*likeliest, *([entry] if likeliest else [])):
        token, logprob = one.get("token"), one.get("logprob")
        if isinstance(token, str) and isinstance(logprob, int | float) and math.isfinite(logprob):
            found.setdefault(token, min(float(logprob), 0.0))  # rounding can leave the logarithm of 1 above 0
    return tuple(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))
