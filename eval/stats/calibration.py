"""A judge against people: agreement over all items and over the hard ones, beside baselines that read nothing.

Where the answer is the reference, any judge agrees with anybody. What a judge is for shows on the other items, so both
are reported, and beside them what the length of the answer, an exact match and the shared words would have scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.errors import EvalDataError, UnpairableError
from eval.stats.agreement import AgreementReport, report_agreement
from eval.stats.bootstrap import (
    CONFIDENCE,
    N_RESAMPLES,
    Floats,
    Interval,
    bootstrap_intervals,
    build_mean_statistic,
)
from eval.stats.items import ItemScores, check_same_items


@dataclass(frozen=True)
class Calibration:
    """How far a judge agrees with people, and how far baselines do."""

    judge: AgreementReport
    """Over all labelled items that the judge scored."""
    judge_hard: AgreementReport | None
    """Over those where the answer is not the reference; None if there are fewer than two."""
    baselines: dict[str, AgreementReport]
    """By name, over the items of ``judge``."""
    baselines_hard: dict[str, AgreementReport]
    """By name, over the items of ``judge_hard``."""
    unscored: float
    """Share of the labelled items without a judge's score, 0..1."""


@dataclass(frozen=True)
class PairAgreement:
    """A pairwise judge against people, on the pairs for which people preferred one answer."""

    judge: Interval
    """Share of these pairs with people's preference; a tie of the judge counts one half."""
    longest: Interval
    """The same for the rule that the longer answer wins."""
    advantage: Interval
    """Judge minus longest, on the same pairs."""


def calibrate(
    judge: ItemScores,
    labels: ItemScores,
    *,
    baselines: Mapping[str, ItemScores],
    is_reference: Mapping[str, bool],
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Calibration:
    """Agreement of a judge, and of baselines, with people's labels.

    Args:
        judge: the judge's scores of the labelled items.
        labels: people's scores of the same items, none missing.
        baselines: other scorers of the same items, none missing (``score_baselines``).
        is_reference: for each item, whether its answer is the reference.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.
        confidence: of the intervals.

    Raises:
        UnpairableError: the items differ, or the judge scored none of them.
        EvalDataError: a label or a baseline's score is missing.
    """
    for other in (labels, *baselines.values()):
        check_same_items(judge.ids, other.ids)
    check_same_items(judge.ids, tuple(is_reference))
    for name, scores in (("labels", labels), *baselines.items()):
        if not scores.has_score().all():
            raise EvalDataError(
                f"expected a score of {name} for every item, got items without; leave unlabelled items out of all sets"
            )
    scored = judge.has_score()
    if not scored.any():
        raise UnpairableError("the judge scored none of the labelled items; see the reasons for which it gave no score")
    hard = scored & ~np.array([is_reference[name] for name in judge.ids])

    def report(scores: ItemScores, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> AgreementReport:
        rated, truth = scores.fill_unscored(math.nan)[chosen], labels.fill_unscored(math.nan)[chosen]
        return report_agreement(list(rated), list(truth), seed=seed, n_resamples=n_resamples, confidence=confidence)

    has_hard = int(hard.sum()) >= 2
    return Calibration(
        judge=report(judge, scored),
        judge_hard=report(judge, hard) if has_hard else None,
        baselines={name: report(scores, scored) for name, scores in baselines.items()},
        baselines_hard={name: report(scores, hard) for name, scores in baselines.items()} if has_hard else {},
        unscored=float((~scored).mean()),
    )


def measure_pair_agreement(
    judge: Mapping[str, float],
    people: Mapping[str, float],
    *,
    length_differences: Mapping[str, float],
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> PairAgreement:
    """Agreement on which of two answers is better, where people preferred one.

    Each mapping holds, by item, A's weight (1 A, 0 B; for the judge the mean of both orders, one half being a tie) or
    A's length minus B's. Pairs that people left tied say nothing of agreement and stay out.

    Raises UnpairableError for different items, EvalDataError if people preferred no answer.
    """
    check_same_items(tuple(judge), tuple(people))
    check_same_items(tuple(judge), tuple(length_differences))
    decided = [name for name in sorted(people) if people[name] != 0.5]
    if not decided:
        raise EvalDataError("expected pairs for which people preferred an answer, got ties alone")
    preferred = np.array([people[name] > 0.5 for name in decided])
    by_judge = _score_side(np.array([judge[name] - 0.5 for name in decided], dtype=np.float64), preferred)
    by_length = _score_side(np.array([length_differences[name] for name in decided], dtype=np.float64), preferred)
    columns = np.stack([by_judge, by_length, by_judge - by_length], axis=1)
    found = bootstrap_intervals(
        build_mean_statistic(columns), n_items=len(decided), seed=seed, n_resamples=n_resamples, confidence=confidence
    )
    return PairAgreement(*found)


def _score_side(difference: Floats, preferred: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Floats:
    """1 where the sign of ``difference`` is people's, 0 where it is the other, one half at 0."""
    agrees = np.where(preferred, difference > 0, difference < 0).astype(np.float64)
    return np.where(difference == 0, 0.5, agrees)
