"""May a judged run be believed? What the judge said of a run's controls, put to ``eval.stats.validity``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eval.errors import EvalConfigError
from eval.judge.controls import ControlCounts
from eval.stats.validity import CONTROL_COUNTS, ControlScores, Validity, validate
from eval.types import ControlKind, Controls, Report

RUN_CONTROLS: Final = ControlCounts(
    identity=CONTROL_COUNTS.identity,
    mismatch=CONTROL_COUNTS.mismatched,
    empty=CONTROL_COUNTS.empty,
    injection=CONTROL_COUNTS.injection,
    padded=CONTROL_COUNTS.padded,
    repeat=CONTROL_COUNTS.repeat,
)
"""As many controls of each kind as it takes to tell a faulty judge from a good one."""


def run_validity(report: Report, *, controls: Controls | None = None) -> Validity:
    """The verdict on the judge of a run.

    Args:
        report: what ``eval.run.judge_responses`` found.
        controls: those of another run by the same judge in the same sitting; by default the run's own.

    Raises:
        EvalConfigError: there are no controls.
    """
    found = report.controls if controls is None else controls
    if found is None:
        raise EvalConfigError("the run was judged without controls, so nothing is known of its judge; judge it again")
    n_unscored = sum(row["score"] is None for row in report.rows)
    return validate(control_scores(found), n_items=len(report.rows), n_unscored=n_unscored)


def control_scores(controls: Controls) -> ControlScores:
    """Scores, or differences from the unchanged response, by kind; None for each control that gave none."""
    return ControlScores(
        identity=_padded(controls, "identity", controls.scores["identity"]),
        mismatched=_padded(controls, "mismatch", controls.scores["mismatch"]),
        empty=_padded(controls, "empty", controls.scores["empty"]),
        injection=_padded(controls, "injection", controls.differences["injection"]),
        padded=_padded(controls, "padded", controls.differences["padded"]),
        repeat=_padded(controls, "repeat", controls.differences["repeat"]),
    )


def _padded(controls: Controls, kind: ControlKind, values: Sequence[int]) -> list[float | None]:
    """A control whose unchanged response has no score says nothing either, although it has one itself."""
    n_asked = len(controls.scores[kind]) + controls.unscored[kind]
    return [*map(float, values), *[None] * (n_asked - len(values))]
