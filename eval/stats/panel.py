"""Several judges of the same items: do they agree with each other?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from eval.errors import EvalConfigError, UnpairableError
from eval.stats.agreement import AgreementReport, report_agreement
from eval.stats.bootstrap import CONFIDENCE, N_RESAMPLES, Floats, Interval, Statistic, bootstrap_intervals
from eval.stats.items import ItemScores, check_same_items


@dataclass(frozen=True)
class PanelAgreement:
    """How far several judges agree with each other."""

    alpha: Interval
    """Krippendorff's alpha for interval scales: 1 perfect, 0 as if scores were dealt out at random."""
    pairwise: dict[tuple[str, str], AgreementReport]
    """For every two judges, over the items that both scored."""
    mean_spearman: float
    """Mean over all pairs of judges."""


def measure_panel_agreement(
    panel: Mapping[str, ItemScores], *, seed: int, n_resamples: int = N_RESAMPLES, confidence: float = CONFIDENCE
) -> PanelAgreement:
    """Agreement between the judges of a panel on the same items; items may lack some judges' scores.

    Krippendorff 2011, https://repository.upenn.edu/asc_papers/43. Raises EvalConfigError for fewer than two judges,
    UnpairableError for different items or two judges that scored no item in common.
    """
    if len(panel) < 2:
        raise EvalConfigError(f"expected a panel of at least two judges, got {len(panel)}")
    names = sorted(panel)
    for name in names[1:]:
        check_same_items(panel[names[0]].ids, panel[name].ids)
    scores = np.stack([panel[name].fill_unscored(math.nan) for name in names], axis=1)
    pairwise = {}
    for i, j in itertools.combinations(range(len(names)), 2):
        both = ~np.isnan(scores[:, [i, j]]).any(axis=1)
        if not both.any():
            raise UnpairableError(f"judges {names[i]!r} and {names[j]!r} scored no item in common")
        pairwise[names[i], names[j]] = report_agreement(
            list(scores[both, i]), list(scores[both, j]), seed=seed, n_resamples=n_resamples, confidence=confidence
        )
    [alpha] = bootstrap_intervals(
        _build_alpha(scores), n_items=len(scores), seed=seed, n_resamples=n_resamples, confidence=confidence
    )
    return PanelAgreement(
        alpha=replace(alpha, high=min(1.0, alpha.high)),
        pairwise=pairwise,
        mean_spearman=float(np.mean([one.spearman.mean for one in pairwise.values()])),
    )


def _build_alpha(scores: Floats) -> Statistic:
    """alpha = 1 - observed / expected squared difference of ``scores`` [items, judges], NaN where one is missing."""
    size = (~np.isnan(scores)).sum(axis=1).astype(np.float64)
    size[size < 2] = 0
    pairable = np.where((size > 0)[:, None], np.nan_to_num(scores), 0.0)
    total, squares = pairable.sum(axis=1), (pairable**2).sum(axis=1)
    # Twice the sum of squared differences of an item's pairs, divided by one less than its number of values.
    within = np.divide(2 * (size * squares - total**2), size - 1, out=np.zeros_like(size), where=size > 1)

    def statistic(counts: Floats) -> Floats:
        n, s, q = counts @ size, counts @ total, counts @ squares
        observed = np.divide(counts @ within, n, out=np.full(len(n), math.nan), where=n > 1)
        everywhere = 2 * (n * q - s * s)
        expected = np.divide(everywhere, n * (n - 1), out=np.full(len(n), math.nan), where=n > 1)
        ratio = np.divide(observed, expected, out=np.full(len(n), math.nan), where=expected > 0)
        return np.asarray(1 - ratio[:, None])

    return statistic
