"""Two groups of different items: does a number differ between them by more than chance?

Two uses. **Failing not at random**: give it something known of every item (its length, its overlap with the
reference), for the items with and without a score; a difference means that the mean is over a selection.
**Self-preference**: give it the judge's score minus people's, for answers of the judge's own family and for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.errors import EvalDataError
from eval.stats.bootstrap import N_RESAMPLES, Floats
from eval.stats.items import require_finite


@dataclass(frozen=True)
class GroupDifference:
    """How much higher a number is in one group than in another."""

    difference: float
    """Mean of the first minus mean of the second."""
    p_value: float
    """Two-sided permutation test of the group labels."""
    n_first: int
    n_second: int


def compare_groups(
    first: Sequence[float], second: Sequence[float], *, seed: int, n_resamples: int = N_RESAMPLES
) -> GroupDifference:
    """Difference of means with a permutation test; raises EvalDataError for an empty group or a value not finite."""
    from scipy.stats import permutation_test

    a, b = require_finite(first, name="first"), require_finite(second, name="second")
    if not len(a) or not len(b):
        raise EvalDataError(f"expected at least one item in each group, got {len(a)} and {len(b)}")
    found = permutation_test(
        (a, b), _subtract_means, vectorized=True, n_resamples=n_resamples, rng=np.random.default_rng([seed, 2])
    )
    return GroupDifference(float(found.statistic), float(found.pvalue), len(a), len(b))


def _subtract_means(a: Floats, b: Floats, axis: int) -> Floats:
    return np.asarray(np.mean(a, axis=axis) - np.mean(b, axis=axis))
