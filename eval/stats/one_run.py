"""One run: its mean, how far chance and the missing scores can move it, and where its noise comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.errors import EvalDataError
from eval.stats.bootstrap import (
    CONFIDENCE,
    N_RESAMPLES,
    Floats,
    Interval,
    bootstrap_intervals,
    build_mean_statistic,
    check_resampling,
)
from eval.stats.items import ItemScores, require_finite
from eval.stats.proportion import compute_unanimous_bounds
from eval.types import MAX_SCORE, MIN_SCORE


@dataclass(frozen=True)
class RunSummary:
    """The mean score of one run and all that limits what it says."""

    bootstrap: Interval
    """Over the scored items; where all scores are equal, the bound of what was not seen
    (``compute_unanimous_bounds``)."""
    student: Interval
    """The same mean with Student's t interval; where the two differ much, a few items decide."""
    bound_low: float
    """The mean over all items with the unscored ones at 0."""
    bound_high: float
    """The mean over all items with the unscored ones at 100."""
    n_unscored: int
    """Items without a score: not in the intervals, but in the bounds."""


@dataclass(frozen=True)
class NoiseSplit:
    """What the variance of one item's score is made of: items that differ, and a judge that wavers."""

    item_sd: float
    """Between items, as a judge without noise would see them; 0 if the judge's noise explains all."""
    judge_sd: float
    """Between repeated judgements of one item."""
    n_items: int
    """Items judged more than once."""
    n_judgements: int
    """Judgements of these items."""

    def compute_standard_error(self, n_items: int, *, repeats: int = 1) -> float:
        """Standard error of the mean over ``n_items``, each the mean of ``repeats`` judgements.

        SE^2 = (item variance + judge variance / repeats) / n_items: repeats pay only where the judge's part is large.
        """
        return math.sqrt((self.item_sd**2 + self.judge_sd**2 / repeats) / n_items)

    @property
    def judge_share(self) -> float:
        """The judge's part in the variance of a single judgement, 0..1; NaN if nothing varies."""
        total = self.item_sd**2 + self.judge_sd**2
        return self.judge_sd**2 / total if total else math.nan


def bootstrap_mean(
    values: Sequence[float], *, seed: int, n_resamples: int = N_RESAMPLES, confidence: float = CONFIDENCE
) -> Interval:
    """The mean with its percentile bootstrap interval.

    Raises EvalDataError for a value that is not finite, EvalConfigError for impossible settings.
    """
    data = require_finite(values, name="values")
    check_resampling(n_resamples=n_resamples, confidence=confidence)
    if not len(data):
        return Interval(math.nan, math.nan, math.nan, 0)
    [found] = bootstrap_intervals(
        build_mean_statistic(data), n_items=len(data), seed=seed, n_resamples=n_resamples, confidence=confidence
    )
    return found


def compute_student_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """The mean with Student's t interval; raises EvalDataError for a value that is not finite."""
    from scipy.special import stdtrit

    data = require_finite(values, name="values")
    n = len(data)
    if n < 2:
        return Interval(float(data.mean()) if n else math.nan, math.nan, math.nan, n)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * float(data.std(ddof=1)) / math.sqrt(n)
    return Interval(float(data.mean()), float(data.mean()) - half, float(data.mean()) + half, n)


def summarise(
    scores: ItemScores, *, seed: int, n_resamples: int = N_RESAMPLES, confidence: float = CONFIDENCE
) -> RunSummary:
    """Mean, both intervals and both bounds of one run.

    Raises EvalDataError for no items at all, EvalConfigError for impossible settings.
    """
    if not scores.ids:
        raise EvalDataError("expected at least one item to summarise, got none; check the item set")
    scored = scores.drop_unscored()
    found = bootstrap_mean(list(scored), seed=seed, n_resamples=n_resamples, confidence=confidence)
    if len(scored) >= 2 and np.ptp(scored) == 0:
        low, high = compute_unanimous_bounds(
            found.mean, found.n, lowest=MIN_SCORE, highest=MAX_SCORE, confidence=confidence
        )
        found = Interval(found.mean, low, high, found.n)
    return RunSummary(
        bootstrap=found,
        student=compute_student_interval(list(scored), confidence=confidence),
        bound_low=float(scores.fill_unscored(MIN_SCORE).mean()),
        bound_high=float(scores.fill_unscored(MAX_SCORE).mean()),
        n_unscored=len(scores.ids) - len(scored),
    )


def split_noise(repeats: Mapping[str, Sequence[float]]) -> NoiseSplit:
    """Split the variance of scores by repeated judgements: one-way analysis of variance with random item effects.

    ``repeats`` holds, for each item, at least two scores of the same question. Unequal numbers are allowed (Searle,
    Casella and McCulloch 1992, section 3.6). Raises EvalDataError for fewer than two items, or an item judged once.
    """
    groups = [require_finite(values, name=f"repeats[{name!r}]") for name, values in sorted(repeats.items())]
    if len(groups) < 2:
        raise EvalDataError(f"expected at least two items that were judged more than once, got {len(groups)}")
    short = [name for name, values in sorted(repeats.items()) if len(values) < 2]
    if short:
        raise EvalDataError(f"expected at least two scores of item {short[0]!r}, got {len(repeats[short[0]])}")
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    n_items, n_judgements = len(groups), int(sizes.sum())
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / (n_judgements - n_items)
    means: Floats = np.array([group.mean() for group in groups])
    grand = float((sizes * means).sum() / n_judgements)
    between = float((sizes * (means - grand) ** 2).sum()) / (n_items - 1)
    usual_size = (n_judgements - float((sizes**2).sum()) / n_judgements) / (n_items - 1)
    item_variance = max(0.0, (between - within) / usual_size)
    return NoiseSplit(math.sqrt(item_variance), math.sqrt(within), n_items, n_judgements)
