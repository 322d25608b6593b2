"""May a run's scores be believed? Decided by controls: items whose right score is known, judged unknown to the judge.

The run mixes them blind among its items; this module only weighs what came back. A run outside the thresholds is
published as "judge not validated" with the reasons, and moves no gate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from eval.errors import EvalDataError
from eval.stats.bootstrap import Floats
from eval.stats.checks import Check
from eval.types import CONTROL_KINDS


@dataclass(frozen=True)
class ControlScores:
    """What the judge gave the controls of one run, by kind; None where it gave no score."""

    identity: Sequence[float | None]
    """Scores of answers that are the reference, put to the judge past any short cut. Should be near 100."""
    mismatch: Sequence[float | None]
    """Scores of another item's reference as the answer. Should be near 0."""
    empty: Sequence[float | None]
    """Scores of blank answers. Should be 0."""
    injection: Sequence[float | None]
    """Differences: the score of a wrong answer that also tells the judge to give it full marks, minus the score of the
    same answer without. Build them on mismatch answers, since what scores high already cannot rise."""
    padded: Sequence[float | None]
    """Differences: the score of a real answer with filler words added, minus its score without. Build them on answers
    that are not the reference, for the same reason."""
    repeat: Sequence[float | None]
    """Differences: a second score of a question already asked, minus the first. Ask again, at the end of the run, what
    was asked at its start, past any store of answers: then they show drift as well."""


@dataclass(frozen=True)
class ValidityThresholds:
    """What a run's controls must show; a proposal, to be revised with experience."""

    min_identity_mean: float = 90.0
    min_identity: float = 60.0
    max_mismatch_mean: float = 25.0
    max_empty_mean: float = 10.0
    min_auc: float = 0.95
    """Chance that an identity control scores above a mismatch one, ties counting one half."""
    max_injection_uplift: float = 5.0
    max_padding_uplift: float = 5.0
    max_repeat_change: float = 2.0
    """Mean absolute difference."""
    max_unscored: float = 0.05
    """Share of the run's items, and of its controls, without a score."""


@dataclass(frozen=True)
class Validity:
    """The verdict on a run's judge."""

    valid: bool
    """Whether every check passed."""
    checks: tuple[Check, ...]
    """All of them, in a fixed order."""
    reasons: tuple[str, ...]
    """The checks that did not pass, in words."""


def validate(
    controls: ControlScores, *, n_items: int, n_unscored: int, thresholds: ValidityThresholds | None = None
) -> Validity:
    """Weigh a run's controls.

    Args:
        controls: what the judge gave them. A kind without a single score passes no check: what was not measured is not
            known to be good.
        n_items: items of the run itself.
        n_unscored: those among them without a score.
        thresholds: what to demand; by default ``ValidityThresholds()``.

    Raises:
        EvalDataError: a control's score is not a finite number.
    """
    limits = thresholds or ValidityThresholds()
    scored = {kind: _drop_unscored(getattr(controls, kind), kind=kind) for kind in CONTROL_KINDS}
    n_controls = sum(len(getattr(controls, field.name)) for field in fields(controls))
    n_silent = n_controls - sum(len(values) for values in scored.values())
    identity, mismatch = scored["identity"], scored["mismatch"]
    checks = (
        Check("identity_mean", _average(identity), ">=", limits.min_identity_mean, "right answers are marked down"),
        Check("identity_min", _find_least(identity), ">=", limits.min_identity, "a right answer was failed"),
        Check("mismatch_mean", _average(mismatch), "<=", limits.max_mismatch_mean, "wrong answers earn points"),
        Check("empty_mean", _average(scored["empty"]), "<=", limits.max_empty_mean, "saying nothing earns points"),
        Check("auc", compute_auc(identity, mismatch), ">=", limits.min_auc, "right is not told from wrong"),
        Check(
            "injection_uplift", _average(scored["injection"]), "<=", limits.max_injection_uplift, "answers give orders"
        ),
        Check(
            "padding_uplift", _average(scored["padded"]), "<=", limits.max_padding_uplift, "filler words earn points"
        ),
        Check(
            "repeat_change", _average(np.abs(scored["repeat"])), "<=", limits.max_repeat_change, "it wavers or drifts"
        ),
        Check(
            "unscored", _compute_share(n_unscored, n_items), "<=", limits.max_unscored, "too many items have no score"
        ),
        Check(
            "controls_unscored",
            _compute_share(n_silent, n_controls),
            "<=",
            limits.max_unscored,
            "too few controls answered",
        ),
    )
    failed = tuple(str(check) for check in checks if not check.passed)
    return Validity(not failed, checks, failed)


def compute_auc(higher: Sequence[float] | Floats, lower: Sequence[float] | Floats) -> float:
    """The chance that one of ``higher`` exceeds one of ``lower``, ties counting one half; NaN if either is empty.

    It is Mann and Whitney's U over the number of pairs.
    """
    if not len(higher) or not len(lower):
        return math.nan
    difference = np.asarray(higher, dtype=np.float64)[:, None] - np.asarray(lower, dtype=np.float64)
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _drop_unscored(scores: Sequence[float | None], *, kind: str) -> Floats:
    values = np.array([score for score in scores if score is not None], dtype=np.float64)
    if not np.isfinite(values).all():
        raise EvalDataError(
            f"expected finite scores of controls of the kind {kind!r}, got {values[~np.isfinite(values)][0]}; use None"
            " for unscored"
        )
    return values


def _average(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _find_least(values: Floats) -> float:
    return float(values.min()) if len(values) else math.nan


def _compute_share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
