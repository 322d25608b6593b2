"""The mean that people would have given, from a judge's scores of all items and people's scores of a few.

Prediction-powered inference (Angelopoulos et al. 2023, https://arxiv.org/abs/2301.09633) with the power tuning of PPI++
(Angelopoulos, Duchi and Zrnic 2023, https://arxiv.org/abs/2311.01453):

    mean = labelled mean of y + lambda (unlabelled mean of f - labelled mean of f)

The labels alone make it unbiased, whatever the judge; the judge's scores of the other items make it narrower, the more
so the better they go with people's. lambda is 0 for a judge that knows nothing, and the result is that of the labels.

The labelled items must be a random draw of all items. People's scores of items that somebody picked correct nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.errors import EvalDataError, UnpairableError
from eval.stats.bootstrap import CONFIDENCE, Floats, Interval
from eval.stats.items import ItemScores, require_finite
from eval.stats.one_run import compute_student_interval

MIN_LABELS = 30
"""With fewer labels the interval's normal theory is not to be trusted."""


@dataclass(frozen=True)
class CorrectedMean:
    """The judge's mean moved to where people's labels put it."""

    corrected: Interval
    """Estimate of the mean of people's scores over all items; its n is the number of labels."""
    judge: Interval
    """The judge's own mean with Student's interval: right about the judge, not about what people would say."""
    labels_only: Interval
    """The mean of the labels alone: as honest as ``corrected``, and wider if the judge is of any use."""
    weight: float
    """lambda, 0..1: how far the judge's scores are used."""
    n_unscored: int
    """Items without a judge's score, labelled or not: out of all three."""


def correct_mean(judge: ItemScores, labels: Mapping[str, float], *, confidence: float = CONFIDENCE) -> CorrectedMean:
    """Correct the judge's mean by people's scores of a random part of the items.

    Args:
        judge: the judge's scores of all items.
        labels: people's scores (the mean where several gave one) of at least ``MIN_LABELS`` of these items.
        confidence: of all intervals.

    Raises:
        UnpairableError: a label of an item that the judge's run does not have.
        EvalDataError: fewer than ``MIN_LABELS`` labels of items that the judge scored.
    """
    unknown = sorted(set(labels) - set(judge.ids))
    if unknown:
        raise UnpairableError(
            f"expected labels of items that were judged, got {len(unknown)} of items that the run does not have, such"
            f" as {unknown[0]!r}"
        )
    by_id = {name: score for name, score in zip(judge.ids, judge.scores, strict=True) if score is not None}
    labelled = sorted(set(labels) & set(by_id))
    if len(labelled) < MIN_LABELS:
        raise EvalDataError(
            f"expected labels of at least {MIN_LABELS} scored items to correct a mean, got {len(labelled)}; label more"
            " items, drawn at random"
        )
    truth = require_finite([labels[name] for name in labelled], name="labels")
    seen = np.array([by_id[name] for name in labelled], dtype=np.float64)
    unseen = np.array([score for name, score in sorted(by_id.items()) if name not in labels], dtype=np.float64)
    corrected, weight = _correct(truth, seen, unseen, confidence=confidence)
    return CorrectedMean(
        corrected=corrected,
        judge=compute_student_interval(list(by_id.values()), confidence=confidence),
        labels_only=compute_student_interval(list(truth), confidence=confidence),
        weight=weight,
        n_unscored=len(judge.ids) - len(by_id),
    )


def _correct(truth: Floats, seen: Floats, unseen: Floats, *, confidence: float) -> tuple[Interval, float]:
    from scipy.special import stdtrit

    n, n_unseen = len(truth), len(unseen)
    if n_unseen < 2:
        return compute_student_interval(list(truth), confidence=confidence), 0.0
    # Both moments from the labelled items: with the judge's variance over all items, which chance moves apart from the
    # covariance of the labelled ones, 30 labels leave a bias of nearly a point.
    (_, together), (_, variance) = np.cov(truth, seen)
    weight = min(1.0, max(0.0, float(together / ((1 + n / n_unseen) * variance)))) if variance else 0.0
    mean = float(truth.mean() + weight * (unseen.mean() - seen.mean()))
    squared_error = float(np.var(truth - weight * seen, ddof=1) / n + weight**2 * np.var(unseen, ddof=1) / n_unseen)
    # The labels are few, so Student's quantile for them rather than the normal one of the papers.
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * math.sqrt(squared_error)
    return Interval(mean, mean - half, mean + half, n), weight
