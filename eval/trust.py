"""May a judged run be believed? What the judge said of a run's controls, put to ``eval.stats.validity``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from eval.errors import EvalConfigError
from eval.stats.checks import Check
from eval.stats.validity import ControlScores, Validity, ValidityThresholds, validate
from eval.types import ControlKind, Controls, Report

KNOWN_PAIRS: Final = 15
"""Pairs whose winner is known among the pairs of a run."""
MIN_KNOWN_WON: Final = 0.9
"""Share of them that the right side must win; one that guesses reaches it in 4 of a million runs (27 of 30 games)."""
MAX_UNSCORED: Final = ValidityThresholds().max_unscored


def validate_run(report: Report, *, controls: Controls | None = None) -> Validity:
    """The verdict on the judge of a run.

    Args:
        report: what ``eval.run.judge_responses`` found.
        controls: those of another run by the same judge in the same sitting; by default the run's own.

    Raises:
        EvalConfigError: there are no controls.
    """
    found = report.controls if controls is None else controls
    if found is None:
        raise EvalConfigError(
            "expected a run judged with controls, got one without, which says nothing of its judge; judge it again"
        )
    n_unscored = sum(row["score"] is None for row in report.rows)
    return validate(collect_control_scores(found), n_items=len(report.rows), n_unscored=n_unscored)


def validate_pairs(reports: Sequence[Report]) -> Validity:
    """The verdict on the judge of comparisons, among which were pairs whose winner is known.

    Without such pairs the judge is not valid: nothing is known of it. Position bias is not a check: both orders
    are asked, and each win rate says how often they differ.
    """
    known = [row["points"] for report in reports for row in (report.controls.rows if report.controls else ())]
    points = [row["points"] for report in reports for row in report.rows]
    won = [one for one in known if one is not None]
    checks = (
        Check("known_won", _average(won), ">=", MIN_KNOWN_WON, "the reference loses against wrong answers"),
        Check("pairs_unscored", _compute_unscored_share(points), "<=", MAX_UNSCORED, "too many pairs have no result"),
        Check(
            "known_unscored", _compute_unscored_share(known), "<=", MAX_UNSCORED, "too few pairs with a known winner"
        ),
    )
    failed = tuple(str(check) for check in checks if not check.passed)
    return Validity(not failed, checks, failed)


def collect_control_scores(controls: Controls) -> ControlScores:
    """Scores, or differences from the unchanged response, by kind; None for each control that gave none."""
    return ControlScores(
        identity=_pad_unscored(controls, "identity", controls.scores["identity"]),
        mismatch=_pad_unscored(controls, "mismatch", controls.scores["mismatch"]),
        empty=_pad_unscored(controls, "empty", controls.scores["empty"]),
        injection=_pad_unscored(controls, "injection", controls.differences["injection"]),
        padded=_pad_unscored(controls, "padded", controls.differences["padded"]),
        repeat=_pad_unscored(controls, "repeat", controls.differences["repeat"]),
    )


def _pad_unscored(controls: Controls, kind: ControlKind, values: Sequence[int]) -> list[float | None]:
    """A control whose unchanged response has no score says nothing either, although it has one itself."""
    n_asked = len(controls.scores[kind]) + controls.unscored[kind]
    return [*map(float, values), *[None] * (n_asked - len(values))]


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _compute_unscored_share(points: Sequence[float | None]) -> float:
    return sum(one is None for one in points) / len(points) if points else math.nan
