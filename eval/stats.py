"""Statistics of scores, with the item as the unit of chance: intervals, paired differences, agreement.

Bootstrap: Efron and Tibshirani 1993. Sign-flip permutation: Fisher's randomisation test for paired data; the p-value
counts the observed order too, (1 + hits) / (1 + draws), so it is never 0 (Phipson and Smyth 2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.errors import EvalConfigError, EvalDataError, UnpairableError

_CELLS_AT_ONCE = 2_000_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds that chance in the choice of items leaves it."""

    mean: float
    """NaN without values."""
    low: float
    """NaN with fewer than two values: one item says nothing about the spread."""
    high: float
    """NaN with fewer than two values."""
    n: int
    """Items."""


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
    """The difference that this many items show with 80% power at the 5% level; NaN with fewer than two items."""
    n: int
    """Pairs."""


@dataclass(frozen=True)
class Agreement:
    """How far two raters agree on the same items; a correlation is NaN if a rater gave one value only."""

    pearson: float
    spearman: float
    kendall: float
    """tau-b, which allows for ties."""
    n: int
    """Pairs."""


def mean_interval(
    values: Sequence[float], *, seed: int, n_resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """The mean with its percentile bootstrap interval.

    Raises EvalDataError for a value that is not finite, EvalConfigError for impossible settings.
    """
    data = _finite(values, name="values")
    low, high = _bootstrap_bounds(data, seed=seed, n_resamples=n_resamples, confidence=confidence)
    return Interval(float(data.mean()) if len(data) else math.nan, low, high, len(data))


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, seed: int, n_resamples: int = 10_000, confidence: float = 0.95
) -> PairedDifference:
    """Mean of ``b - a`` with its paired bootstrap interval and permutation test.

    Raises UnpairableError unless both have the same number of items (item i of one must be item i of the other).
    """
    first, second = _pairs(a, b)
    delta = second - first
    low, high = _bootstrap_bounds(delta, seed=seed, n_resamples=n_resamples, confidence=confidence)
    return PairedDifference(
        difference=float(delta.mean()),
        low=low,
        high=high,
        p_value=_sign_flip_p(delta, seed=seed, n_resamples=n_resamples),
        minimum_detectable=_minimum_detectable(delta),
        n=len(delta),
    )


def agreement(a: Sequence[float], b: Sequence[float]) -> Agreement:
    """Pearson, Spearman and Kendall (tau-b) correlation of two raters' scores of the same items.

    Raises UnpairableError unless both have the same number of items.
    """
    # Imported on use: it takes a second to load, and a run that only judges needs none of it.
    from scipy import stats as scipy_stats

    first, second = _pairs(a, b)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Agreement(math.nan, math.nan, math.nan, len(first))

    def statistic(test: Callable[[Floats, Floats], Any]) -> float:
        return float(test(first, second).statistic)

    return Agreement(
        pearson=statistic(scipy_stats.pearsonr),
        spearman=statistic(scipy_stats.spearmanr),
        kendall=statistic(scipy_stats.kendalltau),
        n=len(first),
    )


def _finite(values: Sequence[float], *, name: str) -> Floats:
    data = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        raise EvalDataError(
            f"{name}[{bad[0]}] is {data[bad[0]]}, not a finite number; keep unscored items out of the statistics"
            " and report their bounds"
        )
    return data


def _pairs(a: Sequence[float], b: Sequence[float]) -> tuple[Floats, Floats]:
    if len(a) != len(b):
        raise UnpairableError(
            f"{len(a)} scores cannot be paired with {len(b)}: a score was dropped somewhere, so item i of one set is"
            " no longer item i of the other; score both sets again keeping every item, unscored ones with a reason"
        )
    if not len(a):
        raise UnpairableError("there are no scores to pair; both sets are empty")
    return _finite(a, name="a"), _finite(b, name="b")


def _bootstrap_bounds(data: Floats, *, seed: int, n_resamples: int, confidence: float) -> tuple[float, float]:
    if n_resamples < 1:
        raise EvalConfigError(f"n_resamples is {n_resamples}; it must be at least 1 (10000 is usual)")
    if not 0 < confidence < 1:
        raise EvalConfigError(f"confidence is {confidence}; it must lie between 0 and 1 (0.95 is usual)")
    if len(data) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    # In slices: 10,000 resamples of 10,000 items at once would take 800 MB.
    step = max(1, _CELLS_AT_ONCE // len(data))
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        means[start:stop] = data[rng.integers(0, len(data), size=(stop - start, len(data)))].mean(axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _sign_flip_p(delta: Floats, *, seed: int, n_resamples: int) -> float:
    rng = np.random.default_rng([seed, 1])
    observed = abs(delta.sum())
    hits = 0
    step = max(1, _CELLS_AT_ONCE // len(delta))
    for start in range(0, n_resamples, step):
        rows = min(step, n_resamples - start)
        signs = rng.integers(0, 2, size=(rows, len(delta))) * 2 - 1
        # The tolerance counts sums that differ by rounding alone as equal.
        hits += int((np.abs(signs @ delta) >= observed - 1e-9 * max(1.0, observed)).sum())
    return (1 + hits) / (1 + n_resamples)


def _minimum_detectable(delta: Floats) -> float:
    if len(delta) < 2:
        return math.nan
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    return z * float(delta.std(ddof=1)) / math.sqrt(len(delta))
