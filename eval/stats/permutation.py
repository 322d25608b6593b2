"""Tests by relabelling: Fisher's randomisation test, whose level is right for any distribution of scores.

Drawn p-values count the observed labelling too, (1 + hits) / (1 + draws), so they are never 0 (Phipson and Smyth 2010,
https://doi.org/10.2202/1544-6115.1585).
"""

from __future__ import annotations

import numpy as np

from eval.stats.bootstrap import N_RESAMPLES, Floats

_CELLS_AT_ONCE = 2_000_000


def compute_sign_flip_p(delta: Floats, *, seed: int, n_resamples: int = N_RESAMPLES) -> float:
    """Two-sided p-value of a mean difference of 0 between paired scores, [items].

    If the sides made no difference, each item's difference could as well have the other sign. With so few items that
    all signs can be tried (2 ** items <= n_resamples) it is exact; otherwise ``n_resamples`` are drawn.
    """
    n = len(delta)
    observed = abs(float(delta.sum()))
    # The tolerance counts sums that differ by rounding alone as equal.
    wanted = observed - 1e-9 * max(1.0, observed)
    if n < 63 and 2**n <= n_resamples:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs((2 * patterns - 1) @ delta) >= wanted).mean())
    rng = np.random.default_rng([seed, 1])
    hits = 0
    step = max(1, _CELLS_AT_ONCE // n)
    for start in range(0, n_resamples, step):
        rows = min(step, n_resamples - start)
        signs = rng.integers(0, 2, size=(rows, n)) * 2 - 1
        hits += int((np.abs(signs @ delta) >= wanted).sum())
    return (1 + hits) / (1 + n_resamples)
