"""What would the result be if answers were equally long? A judge that likes length moves scores without any merit.

Win rates: logit P(A wins) = b0 + b1 tanh(d / s), with d the difference of the two answers' lengths on the item and s
the standard deviation of d; predicted at d = 0. It is AlpacaEval's length control (Dubois et al. 2024,
https://arxiv.org/abs/2404.04475) without the part that is fitted to its own prompts, so it works on any set. Scores:
the linear analogue, score = b0 + b1 tanh(d / s). The interval refits in each resample of items: the scatter of the
fitted values, which AlpacaEval takes, knows nothing of the noise of the outcomes.

It removes all that goes with length. Where longer answers are better because they say more, it removes that too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.errors import EvalDataError, UnpairableError
from eval.stats.bootstrap import CONFIDENCE, N_RESAMPLES, Floats, Interval, Statistic, bootstrap_intervals
from eval.stats.items import ItemScores, check_same_items, require_finite
from eval.stats.pairwise import SwappedGames

_RIDGE = 1e-6
_ITERATIONS = 40


@dataclass(frozen=True)
class LengthControlled:
    """A win rate or a mean with and without the part that goes with length."""

    raw: Interval
    """As judged."""
    controlled: Interval
    """Predicted at no difference in length."""
    slope: Interval
    """b1: logits for win rates, points for scores. Excludes 0 where the judgements go with length beyond chance."""
    is_extrapolated: bool
    """Whether all differences in length have one sign, so that equal length was never seen: the controlled figure is
    then the model's guess."""


def fit_length_controlled_win_rate(
    games: SwappedGames,
    length_differences: Mapping[str, float],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> LengthControlled:
    """The win rate of A at equal lengths.

    ``length_differences`` holds A's length minus B's for each item of the games, in any unit. Items without a result in
    both orders stay out, as they do of the raw rate. Raises UnpairableError for other items, EvalDataError if no item
    has both results.
    """
    check_same_items(games.ids, tuple(length_differences))
    ids = [name for name, scored in zip(games.ids, games.is_scored(), strict=True) if scored]
    weights = games.drop_unscored().mean(axis=1)
    return _fit(
        weights,
        _select_lengths(ids, length_differences),
        is_share=True,
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def fit_length_controlled_mean(
    scores: ItemScores,
    length_differences: Mapping[str, float],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> LengthControlled:
    """The mean score of answers as long as what ``length_differences`` compares them with (the reference, as a rule).

    Raises UnpairableError for other items, EvalDataError if no item is scored.
    """
    check_same_items(scores.ids, tuple(length_differences))
    ids = [name for name, score in zip(scores.ids, scores.scores, strict=True) if score is not None]
    return _fit(
        scores.drop_unscored(),
        _select_lengths(ids, length_differences),
        is_share=False,
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def fit_length_controlled_difference(
    baseline: ItemScores,
    candidate: ItemScores,
    length_differences: Mapping[str, float],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> LengthControlled:
    """The mean of candidate minus baseline on items where both answers would be equally long.

    ``length_differences`` holds the candidate's length minus the baseline's. Raises UnpairableError for other items or
    if no item is scored in both.
    """
    check_same_items(baseline.ids, candidate.ids)
    check_same_items(baseline.ids, tuple(length_differences))
    both = baseline.has_score() & candidate.has_score()
    if not both.any():
        raise UnpairableError("no item is scored in both runs; see the reasons for which the judge gave no score")
    delta = candidate.fill_unscored(math.nan)[both] - baseline.fill_unscored(math.nan)[both]
    ids = [name for name, scored in zip(baseline.ids, both, strict=True) if scored]
    return _fit(
        delta,
        _select_lengths(ids, length_differences),
        is_share=False,
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def _select_lengths(ids: list[str], length_differences: Mapping[str, float]) -> Floats:
    return require_finite([length_differences[name] for name in ids], name="length_differences")


def _fit(
    values: Floats, lengths: Floats, *, is_share: bool, seed: int, n_resamples: int, confidence: float
) -> LengthControlled:
    if not len(values):
        raise EvalDataError("no item is scored; see the reasons for which the judge gave no score")
    spread = float(lengths.std())
    # Where all differ alike, nothing tells what length does, and nothing can be taken away.
    saturated = np.tanh(lengths / spread) if spread else np.zeros(len(lengths))
    statistic = _build_logistic(values, saturated) if is_share else _build_linear(values, saturated)
    raw, controlled, slope = bootstrap_intervals(
        statistic, n_items=len(values), seed=seed, n_resamples=n_resamples, confidence=confidence
    )
    return LengthControlled(raw, controlled, slope, is_extrapolated=bool(lengths.min() > 0 or lengths.max() < 0))


def _build_linear(values: Floats, x: Floats) -> Statistic:
    def statistic(counts: Floats) -> Floats:
        n = counts.sum(axis=1)
        mean_x, mean_y = counts @ x / n, counts @ values / n
        spread = counts @ (x * x) / n - mean_x**2
        together = counts @ (x * values) / n - mean_x * mean_y
        slope = np.divide(together, spread, out=np.zeros_like(spread), where=spread > 1e-12)
        return np.stack([mean_y, mean_y - slope * mean_x, slope], axis=1)

    return statistic


def _build_logistic(values: Floats, x: Floats) -> Statistic:
    def statistic(counts: Floats) -> Floats:
        constant, slope = _fit_logistic(counts, values, x)
        return np.stack([counts @ values / counts.sum(axis=1), 1 / (1 + np.exp(-constant)), slope], axis=1)

    return statistic


def _fit_logistic(counts: Floats, values: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Constant and slope of a logistic regression of shares ``values`` on ``x`` per row of ``counts``, by Newton."""
    ridge = _RIDGE * counts.sum(axis=1)
    constant, slope = np.zeros(len(counts)), np.zeros(len(counts))
    for _ in range(_ITERATIONS):
        chance = 1 / (1 + np.exp(-(constant[:, None] + slope[:, None] * x)))
        residual = counts * (values - chance)
        weight = counts * chance * (1 - chance)
        to_constant, to_slope = residual.sum(axis=1) - ridge * constant, residual @ x - ridge * slope
        a, b, c = weight.sum(axis=1) + ridge, weight @ x, weight @ (x * x) + ridge
        determinant = a * c - b * b
        step_constant = (c * to_constant - b * to_slope) / determinant
        step_slope = (a * to_slope - b * to_constant) / determinant
        constant += np.clip(step_constant, -2, 2)
        slope += np.clip(step_slope, -2, 2)
        if max(np.abs(step_constant).max(), np.abs(step_slope).max()) < 1e-9:
            break
    return constant, slope
