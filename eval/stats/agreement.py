"""How far two raters agree on the same items: share, kappa, correlations, each with an interval.

Cohen 1960 and 1968 (kappa, weighted kappa), Kendall 1945 (tau-b). Every figure is written as a function of how often
each item comes in a resample, with ranks and pairs as matrix products, so that 10,000 resamples take a second; a test
compares them with scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.stats.bootstrap import (
    CONFIDENCE,
    N_RESAMPLES,
    Floats,
    Interval,
    Statistic,
    bootstrap_intervals,
)
from eval.stats.items import pair_scores
from eval.stats.two_runs import PASS_MARK

BIN_WIDTH = 20
"""Scores are put to the nearest of the rubric's anchors 0, 20, .., 100 before shares and kappas are taken of them."""
_N_BINS = 6


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree on the same items; a correlation is NaN if a rater gave one value only."""

    pearson: float
    spearman: float
    kendall: float
    """tau-b, which allows for ties."""
    n: int
    """Pairs."""


@dataclass(frozen=True)
class AgreementReport:
    """Agreement with intervals; a figure is NaN, with the widest bounds, where it is not defined."""

    same_anchor: Interval
    """Share of items whose two scores are nearest to the same anchor."""
    kappa: Interval
    """Cohen's kappa of the anchors with quadratic weights: 0 by chance, 1 perfect."""
    same_side: Interval
    """Share of items that pass, or fail, by both scores."""
    pass_kappa: Interval
    """Cohen's kappa of pass and fail."""
    pearson: Interval
    spearman: Interval
    kendall: Interval
    """tau-b, which allows for ties."""
    n: int
    """Items."""


_FIELDS = ("same_anchor", "kappa", "same_side", "pass_kappa", "pearson", "spearman", "kendall")
_IS_SHARE = ("same_anchor", "same_side")


def measure_agreement(a: Sequence[float], b: Sequence[float]) -> Agreement:
    """Pearson, Spearman and Kendall (tau-b) correlation of two raters' scores of the same items.

    Raises UnpairableError unless both have the same number of items.
    """
    first, second = pair_scores(a, b)
    values = build_agreement_statistic(first, second, pass_mark=PASS_MARK)(np.ones((1, len(first))))[0]
    found = dict(zip(_FIELDS, (float(value) for value in values), strict=True))
    return Agreement(found["pearson"], found["spearman"], found["kendall"], len(first))


def report_agreement(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int,
    pass_mark: float = PASS_MARK,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> AgreementReport:
    """All figures of agreement with item-bootstrap intervals.

    Raises UnpairableError unless both have the same number of items, EvalConfigError for impossible settings.
    """
    first, second = pair_scores(a, b)
    found = bootstrap_intervals(
        build_agreement_statistic(first, second, pass_mark=pass_mark),
        n_items=len(first),
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )
    clipped = {
        name: Interval(one.mean, max(0.0 if name in _IS_SHARE else -1.0, one.low), min(1.0, one.high), one.n)
        for name, one in zip(_FIELDS, found, strict=True)
    }
    return AgreementReport(**clipped, n=len(first))


def build_agreement_statistic(a: Floats, b: Floats, *, pass_mark: float) -> Statistic:
    """The figures in the order of ``AgreementReport`` as a function of counts: [resamples, 7]."""
    parts = (
        _build_kappa(_find_anchors(a), _find_anchors(b), n_classes=_N_BINS),
        _build_kappa((a >= pass_mark).astype(np.intp), (b >= pass_mark).astype(np.intp), n_classes=2),
        _build_pearson(a, b),
        _build_spearman(a, b),
        _build_kendall(a, b),
    )

    def statistic(counts: Floats) -> Floats:
        return np.concatenate([part(counts) for part in parts], axis=1)

    return statistic


def _find_anchors(scores: Floats) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.clip(np.floor(scores / BIN_WIDTH + 0.5), 0, _N_BINS - 1).astype(np.intp)


def _build_kappa(
    a: np.ndarray[tuple[int], np.dtype[np.intp]], b: np.ndarray[tuple[int], np.dtype[np.intp]], *, n_classes: int
) -> Statistic:
    """Share of equal classes, and kappa with quadratic weights (for two classes the plain one): [resamples, 2]."""
    one_hot_a, one_hot_b = np.eye(n_classes)[a], np.eye(n_classes)[b]
    classes = np.arange(n_classes)
    distance = (classes[:, None] - classes) ** 2.0

    def statistic(counts: Floats) -> Floats:
        n = counts.sum(axis=1)
        expected = np.einsum("ri,ij,rj->r", counts @ one_hot_a, distance, counts @ one_hot_b) / n**2
        observed = counts @ distance[a, b] / n
        kappa = np.divide(observed, expected, out=np.full(len(n), math.nan), where=expected > 0)
        return np.stack([counts @ (a == b).astype(np.float64) / n, 1 - kappa], axis=1)

    return statistic


def _build_pearson(a: Floats, b: Floats) -> Statistic:
    def statistic(counts: Floats) -> Floats:
        rows = np.broadcast_to(a, counts.shape), np.broadcast_to(b, counts.shape)
        return _correlate(counts, *rows)

    return statistic


def _build_spearman(a: Floats, b: Floats) -> Statistic:
    """Ranks change from resample to resample: an item's is half of those equal to it, and all of those below."""
    below_a, below_b = ((x[None, :] < x[:, None]) + 0.5 * (x[None, :] == x[:, None]) for x in (a, b))

    def statistic(counts: Floats) -> Floats:
        return _correlate(counts, counts @ below_a.T, counts @ below_b.T)

    return statistic


def _build_kendall(a: Floats, b: Floats) -> Statistic:
    """tau-b: agreeing minus opposed pairs, over the geometric mean of the pairs that each rater tells apart."""
    order_a, order_b = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    agreeing, told_apart_a, told_apart_b = order_a * order_b, order_a**2, order_b**2

    def statistic(counts: Floats) -> Floats:
        together, by_a, by_b = (
            (counts @ matrix * counts).sum(axis=1) for matrix in (agreeing, told_apart_a, told_apart_b)
        )
        apart = np.sqrt(by_a * by_b)
        tau = np.divide(together, apart, out=np.full(len(counts), math.nan), where=apart > 0)
        return np.asarray(tau[:, None])

    return statistic


def _correlate(counts: Floats, a: Floats, b: Floats) -> Floats:
    n = counts.sum(axis=1, keepdims=True)
    da, db = (x - (counts * x).sum(axis=1, keepdims=True) / n for x in (a, b))
    together = (counts * da * db).sum(axis=1)
    spread = np.sqrt((counts * da * da).sum(axis=1) * (counts * db * db).sum(axis=1))
    # Rounding leaves a spread of about 1e-13 where a resample holds one value only.
    r = np.divide(together, spread, out=np.full(len(counts), math.nan), where=spread > 1e-9)
    return np.asarray(r[:, None])
