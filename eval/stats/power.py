"""How large a difference so many items can show, and how many items a difference takes.

Two-sided test of a mean difference with normal quantiles, the textbook z(1 - level/2) + z(power).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from eval.errors import EvalConfigError
from eval.stats.bootstrap import Floats

POWER = 0.8
LEVEL = 0.05


def compute_minimum_detectable(delta: Floats, *, level: float = LEVEL) -> float:
    """The mean difference that as many items as ``delta`` show with 80% power; NaN with fewer than two items."""
    if len(delta) < 2:
        return math.nan
    return _add_quantiles(level) * float(np.std(delta, ddof=1)) / math.sqrt(len(delta))


def count_items_needed(sd: float, difference: float, *, level: float = LEVEL) -> int | None:
    """Items that show a mean difference with 80% power, if paired differences have the standard deviation ``sd``.

    None for a difference of 0, which no number of items can show. Raises EvalConfigError for a negative ``sd``.
    """
    if sd < 0:
        raise EvalConfigError(f"expected a standard deviation of at least 0, got {sd}")
    if difference == 0:
        return None
    return max(2, math.ceil((_add_quantiles(level) * sd / difference) ** 2))


def compute_family_factor(level: float, n_tests: int) -> float:
    """How much larger a detectable difference is when the level is divided by ``n_tests``."""
    return _add_quantiles(level / n_tests) / _add_quantiles(level)


def _add_quantiles(level: float) -> float:
    normal = NormalDist()
    return normal.inv_cdf(1 - level / 2) + normal.inv_cdf(POWER)
