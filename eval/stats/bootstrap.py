"""Resampling of items: the interval that chance in the choice of items leaves a statistic.

Percentile bootstrap (Efron and Tibshirani 1993) with the item as the unit: whatever was computed from an item (two
games, five repeats) comes or stays away together. The tails are widened for few items as Hesterberg proposes ("expanded
percentile", 2015, https://doi.org/10.1080/00031305.2015.1089789): the plain percentile interval is too narrow by the
factor sqrt((n - 1) / n) and by normal in place of t quantiles, which at 30 items leaves it with 93% coverage.

A statistic is a function of counts [resamples, items]: how often each item came. One line of ones is the data itself,
so the estimate and its interval are computed by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.errors import EvalConfigError

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Counts [resamples, items] -> values [resamples, k]."""

N_RESAMPLES = 10_000
CONFIDENCE = 0.95
_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds that chance in the choice of items leaves it."""

    mean: float
    """The estimate; NaN without values."""
    low: float
    """NaN with fewer than two items: one item says nothing about the spread."""
    high: float
    """NaN with fewer than two items."""
    n: int
    """Items."""


def check_resampling(*, n_resamples: int, confidence: float) -> None:
    """Raise EvalConfigError for settings with which nothing can be computed."""
    if n_resamples < 1:
        raise EvalConfigError(f"expected n_resamples of at least 1 ({N_RESAMPLES} is usual), got {n_resamples}")
    if not 0 < confidence < 1:
        raise EvalConfigError(f"expected a confidence between 0 and 1 ({CONFIDENCE} is usual), got {confidence}")


def draw_counts(n_items: int, *, seed: int, n_resamples: int) -> Iterator[Floats]:
    """How often each of ``n_items`` comes in each resample: float64 [some, n_items], ``n_resamples`` rows in all."""
    rng = np.random.default_rng(seed)
    # In slices: 10,000 resamples of 10,000 items at once would take 800 MB.
    step = max(1, _CELLS_AT_ONCE // n_items)
    for start in range(0, n_resamples, step):
        rows = min(step, n_resamples - start)
        drawn = rng.integers(0, n_items, size=(rows, n_items)) + n_items * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_items)
        yield counts.reshape(rows, n_items).astype(np.float64)


def draw_statistics(statistic: Statistic, *, n_items: int, seed: int, n_resamples: int) -> Floats:
    """The statistic of each resample, [n_resamples, k]."""
    counts = draw_counts(n_items, seed=seed, n_resamples=n_resamples)
    return np.concatenate([statistic(some) for some in counts])


def compute_percentile_bounds(draws: Floats, *, n_items: int, confidence: float) -> tuple[Floats, Floats]:
    """Lower and upper bounds [k] of draws [resamples, k].

    Resamples in which a statistic is not defined (NaN) count against both bounds: they may end at -inf and inf.
    """
    tail = compute_expanded_tail(n_items, confidence=confidence)
    undefined = np.isnan(draws)
    low = np.quantile(np.where(undefined, -np.inf, draws), tail, axis=0, method="lower")
    high = np.quantile(np.where(undefined, np.inf, draws), 1 - tail, axis=0, method="higher")
    return low, high


def compute_expanded_tail(n_items: int, *, confidence: float) -> float:
    """The share of draws to leave out on each side: below (1 - confidence) / 2, the more so the fewer items."""
    # Imported on use: it takes a second to load.
    from scipy.special import ndtr, stdtrit

    quantile = float(stdtrit(n_items - 1, (1 + confidence) / 2))
    return float(ndtr(-math.sqrt(n_items / (n_items - 1)) * quantile))


def bootstrap_intervals(
    statistic: Statistic, *, n_items: int, seed: int, n_resamples: int, confidence: float
) -> list[Interval]:
    """An interval for each of the k numbers that ``statistic`` computes from the same items.

    Raises EvalConfigError for impossible settings. ``n_items`` is at least 1.
    """
    check_resampling(n_resamples=n_resamples, confidence=confidence)
    estimates = statistic(np.ones((1, n_items)))[0]
    if n_items < 2:
        return [Interval(float(estimate), math.nan, math.nan, n_items) for estimate in estimates]
    draws = draw_statistics(statistic, n_items=n_items, seed=seed, n_resamples=n_resamples)
    low, high = compute_percentile_bounds(draws, n_items=n_items, confidence=confidence)
    return [Interval(float(e), float(lo), float(hi), n_items) for e, lo, hi in zip(estimates, low, high, strict=True)]


def build_mean_statistic(values: Floats) -> Statistic:
    """The mean as a statistic of counts; ``values`` is [items] or [items, k]."""
    columns = values.reshape(len(values), -1)

    def statistic(counts: Floats) -> Floats:
        return np.asarray(counts @ columns / counts.sum(axis=1, keepdims=True))

    return statistic
