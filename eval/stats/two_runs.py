"""Two runs on the same items: is the difference more than chance?

Primary: the sign-flip permutation test of the mean difference, with a paired bootstrap interval beside it. Secondary:
Wilcoxon's signed ranks (about medians, and on scores like these the weaker test) and McNemar's exact test of who
passes. Several candidates: Holm's step-down correction (Holm 1979, https://www.jstor.org/stable/4615733).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eval.errors import EvalConfigError, UnpairableError
from eval.stats.bootstrap import CONFIDENCE, N_RESAMPLES, Floats, bootstrap_intervals, build_mean_statistic
from eval.stats.items import ItemScores, check_same_items, pair_scores
from eval.stats.permutation import compute_sign_flip_p
from eval.stats.power import compute_family_factor, compute_minimum_detectable, count_items_needed
from eval.types import MAX_SCORE, MIN_SCORE

PASS_MARK = 60.0
"""The score from which an answer passes: the rubric's "mostly correct"."""

VerdictWord = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class PairedDifference:
    """How much higher ``b`` scores than ``a`` on the same items."""

    difference: float
    """Mean of b - a."""
    low: float
    """Lower bound of the interval; NaN with fewer than two items."""
    high: float
    """Upper bound of the interval; NaN with fewer than two items."""
    p_value: float
    """Two-sided sign-flip permutation test of no difference."""
    minimum_detectable: float
    """The difference that this many items show with 80% power at this level; NaN with fewer than two items."""
    n: int
    """Pairs."""


@dataclass(frozen=True)
class McNemar:
    """Who passes on the same items: only those that changed sides say anything."""

    gained: int
    """Items that fail in the first and pass in the second."""
    lost: int
    """Items that pass in the first and fail in the second."""
    p_value: float
    """Exact two-sided binomial test of gained against lost; 1 if none changed."""


@dataclass(frozen=True)
class Comparison:
    """A candidate run against a baseline run on the same items."""

    verdict: VerdictWord
    """Of the candidate: better or worse only if ``p_adjusted`` is at most 1 - confidence **and** the difference keeps
    its sign at the bound where every unscored item speaks against it."""
    paired: PairedDifference
    """Candidate minus baseline, over the items scored in both."""
    p_adjusted: float
    """``paired.p_value`` corrected for the number of candidates; the same for one."""
    bound_low: float
    """The mean difference over all items with the candidate's unscored ones at 0 and the baseline's at 100."""
    bound_high: float
    """The same the other way round."""
    wilcoxon_p: float
    """Wilcoxon's signed-rank test; 1 if no score differs."""
    passes: McNemar
    """Pass or fail at the pass mark."""
    items_needed: int | None
    """Items that would show a true difference as large as this one with 80% power; None for a difference of 0."""
    n_unscored: int
    """Items without a score in one or both runs."""


def measure_paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> PairedDifference:
    """Mean of ``b - a`` with its paired bootstrap interval and permutation test.

    Raises UnpairableError unless both have the same number of items (item i of one must be item i of the other).
    """
    first, second = pair_scores(a, b)
    delta = second - first
    [interval] = bootstrap_intervals(
        build_mean_statistic(delta), n_items=len(delta), seed=seed, n_resamples=n_resamples, confidence=confidence
    )
    return PairedDifference(
        difference=float(delta.mean()),
        low=interval.low,
        high=interval.high,
        p_value=compute_sign_flip_p(delta, seed=seed, n_resamples=n_resamples),
        minimum_detectable=compute_minimum_detectable(delta, level=1 - confidence),
        n=len(delta),
    )


def run_mcnemar(a: Sequence[float], b: Sequence[float], *, pass_mark: float = PASS_MARK) -> McNemar:
    """McNemar's exact test of pass or fail; raises UnpairableError unless both have the same number of items."""
    from scipy.stats import binomtest

    first, second = pair_scores(a, b)
    gained = int(((first < pass_mark) & (second >= pass_mark)).sum())
    lost = int(((first >= pass_mark) & (second < pass_mark)).sum())
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return McNemar(gained, lost, p_value)


def compare_runs(
    baseline: ItemScores,
    candidate: ItemScores,
    *,
    seed: int,
    pass_mark: float = PASS_MARK,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Whether the candidate scores better than the baseline, item by item.

    Raises UnpairableError unless both hold the same items and at least one item is scored in both; EvalConfigError for
    impossible settings. That both were judged by the same instrument is for ``eval.stats.provenance`` to check.
    """
    check_same_items(baseline.ids, candidate.ids)
    both = baseline.has_score() & candidate.has_score()
    if not both.any():
        raise UnpairableError("no item is scored in both runs; see the reasons for which the judge gave no score")
    first, second = baseline.fill_unscored(math.nan)[both], candidate.fill_unscored(math.nan)[both]
    paired = measure_paired_difference(
        list(first), list(second), seed=seed, n_resamples=n_resamples, confidence=confidence
    )
    delta = second - first
    spread = float(np.std(delta, ddof=1)) if len(delta) > 1 else math.nan
    found = Comparison(
        verdict="not distinguishable",
        paired=paired,
        p_adjusted=paired.p_value,
        bound_low=float((candidate.fill_unscored(MIN_SCORE) - baseline.fill_unscored(MAX_SCORE)).mean()),
        bound_high=float((candidate.fill_unscored(MAX_SCORE) - baseline.fill_unscored(MIN_SCORE)).mean()),
        wilcoxon_p=_compute_wilcoxon_p(delta),
        passes=run_mcnemar(list(first), list(second), pass_mark=pass_mark),
        items_needed=None
        if math.isnan(spread)
        else count_items_needed(spread, paired.difference, level=1 - confidence),
        n_unscored=int((~both).sum()),
    )
    return replace(found, verdict=_choose_verdict(found, level=1 - confidence))


def compare_family(
    baseline: ItemScores,
    candidates: Mapping[str, ItemScores],
    *,
    seed: int,
    pass_mark: float = PASS_MARK,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> dict[str, Comparison]:
    """Each candidate against the baseline, with p-values and verdicts that hold for all of them together.

    The minimum detectable difference and the items needed are those of the strictest step, level / candidates. Raises
    what ``compare_runs`` raises, and EvalConfigError for no candidates.
    """
    if not candidates:
        raise EvalConfigError("expected at least one candidate to compare with the baseline, got none")
    level = 1 - confidence
    found = {
        name: compare_runs(
            baseline, scores, seed=seed, pass_mark=pass_mark, n_resamples=n_resamples, confidence=confidence
        )
        for name, scores in candidates.items()
    }
    adjusted = adjust_holm([one.paired.p_value for one in found.values()])
    return {
        name: _correct_for_family(replace(one, p_adjusted=p_value), level=level, n_candidates=len(found))
        for (name, one), p_value in zip(found.items(), adjusted, strict=True)
    }


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: reject what is at most the level, and errors in the whole family
    stay at that level."""
    order = np.argsort(p_values, kind="stable")
    n = len(p_values)
    stepped = np.array([p_values[index] * (n - step) for step, index in enumerate(order)])
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return [float(value) for value in adjusted]


def choose_verdict(difference: float, *, p_value: float, level: float, bounds: tuple[float, float]) -> VerdictWord:
    """Better above 0, worse below it, if ``p_value`` is at most ``level`` and both ``bounds`` lie on the same side.

    ``bounds`` are the differences with every unscored item for, and against, either side.
    """
    if p_value <= level and difference > 0 and bounds[0] > 0:
        return "better"
    if p_value <= level and difference < 0 and bounds[1] < 0:
        return "worse"
    return "not distinguishable"


def _choose_verdict(found: Comparison, *, level: float) -> VerdictWord:
    bounds = (found.bound_low, found.bound_high)
    return choose_verdict(found.paired.difference, p_value=found.p_adjusted, level=level, bounds=bounds)


def _correct_for_family(found: Comparison, *, level: float, n_candidates: int) -> Comparison:
    factor = compute_family_factor(level, n_candidates)
    paired = replace(found.paired, minimum_detectable=found.paired.minimum_detectable * factor)
    needed = None if found.items_needed is None else math.ceil(found.items_needed * factor**2)
    return replace(found, verdict=_choose_verdict(found, level=level), paired=paired, items_needed=needed)


def _compute_wilcoxon_p(delta: Floats) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(delta).pvalue) if np.any(delta) else 1.0
