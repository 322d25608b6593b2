"""Scorers that understand nothing: what any judge must beat before its agreement means something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.errors import EvalDataError
from eval.exact import is_exact, normalise
from eval.types import MAX_SCORE


def score_baselines(responses: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Scores 0..100 by rules that understand nothing, per item.

    ``longest``: the length in characters, the longest of all being 100 (only its order means anything).
    ``exact_match``: 100 for the reference itself, else 0. ``token_f1``: shared words, as for SQuAD (Rajpurkar et al.
    2016, https://arxiv.org/abs/1606.05250). Raises EvalDataError for different numbers of texts.
    """
    if len(responses) != len(references):
        raise EvalDataError(f"expected one reference for each of {len(responses)} responses, got {len(references)}")
    longest = max((len(text) for text in responses), default=0) or 1
    texts = list(zip(responses, references, strict=True))
    return {
        "longest": [MAX_SCORE * len(response) / longest for response in responses],
        "exact_match": [float(MAX_SCORE * is_exact(response, reference)) for response, reference in texts],
        "token_f1": [MAX_SCORE * measure_token_f1(response, reference) for response, reference in texts],
    }


def measure_token_f1(response: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the normalised words, 0..1; 0 if either text has none."""
    given, wanted = Counter(normalise(response).split()), Counter(normalise(reference).split())
    shared = sum((given & wanted).values())
    return 2 * shared / (sum(given.values()) + sum(wanted.values())) if shared else 0.0
