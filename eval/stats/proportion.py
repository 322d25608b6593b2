"""Shares with exact bounds: Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.

Exact means never below the confidence asked for, whatever the share; for few items it is well above.
"""

from __future__ import annotations

import math

from eval.errors import EvalConfigError
from eval.stats.bootstrap import CONFIDENCE, Interval


def compute_exact_interval(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """The share of ``successes`` among ``n`` items with its Clopper-Pearson bounds.

    Without items all three numbers are NaN. Raises EvalConfigError for a number of successes that ``n`` items cannot
    have.
    """
    from scipy.special import betaincinv

    if not 0 <= successes <= n:
        raise EvalConfigError(f"expected between 0 and {n} successes, got {successes}")
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Interval(successes / n, low, high, n)


def compute_unanimous_bounds(
    value: float, n: int, *, lowest: float, highest: float, confidence: float
) -> tuple[float, float]:
    """Bounds of a mean over ``n`` items that all have ``value``, on a scale from ``lowest`` to ``highest``.

    Resampling equal values shows no spread at all. What ``n`` items did not show may still make up a share of
    1 - tail ** (1 / n) of all items, anywhere on the scale; for a share of 0 or 1 this is Clopper and Pearson's bound.
    """
    unseen = 1 - ((1 - confidence) / 2) ** (1 / n)
    return value - unseen * (value - lowest), value + unseen * (highest - value)
