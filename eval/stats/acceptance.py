"""May this judge be used at all? Decided once per judge and prompt, against people's labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eval.stats.agreement import AgreementReport
from eval.stats.bootstrap import Interval
from eval.stats.calibration import Calibration, PairAgreement
from eval.stats.checks import Check
from eval.stats.validity import Validity


@dataclass(frozen=True)
class AcceptanceThresholds:
    """What a judge must show; a proposal, to be revised with experience.

    The anchors: Llama 3 8B against GPT-4 on 100 answers of small models reaches a Spearman of 0.70 (0.58 to 0.79) and a
    kappa of 0.71; people agree with each other on 0.81 of decided pairs of MT-Bench, and the rule that the longer
    answer wins is right in 0.62 of AlpacaEval's.
    """

    max_unscored: float = 0.01
    min_spearman: float = 0.60
    min_spearman_low: float = 0.45
    min_pass_kappa: float = 0.60
    min_pair_agreement: float = 0.65
    """And the lower bound must lie above what the longest answer reaches on the same pairs."""
    min_consistency: float = 0.65


_NO_CONTROLS = Check("controls", 0.0, ">=", 1.0, "no controls ran with these scores")


@dataclass(frozen=True)
class Acceptance:
    """The verdict on a judge."""

    accepted: bool
    """Whether every check passed."""
    checks: tuple[Check, ...]
    """Each demand with its value and bound, the controls' included."""
    reasons: tuple[str, ...]
    """The checks that did not pass, in words."""
    beats_baselines: dict[str, bool]
    """For each baseline, whether the judge's Spearman on the hard items lies above it; not a demand, but read it."""


@dataclass(frozen=True)
class PairwiseEvidence:
    """What is known of a judge's pairwise verdicts."""

    agreement: PairAgreement
    consistency: Interval
    """Share of items with the same result in both orders (``WinRate.consistency``)."""


def accept(
    calibration: Calibration,
    *,
    controls: Validity | None,
    pairwise: PairwiseEvidence | None = None,
    thresholds: AcceptanceThresholds | None = None,
) -> Acceptance:
    """Accept or reject a judge, listing each demand.

    Args:
        calibration: agreement with people's labels.
        controls: the verdict on the controls that were judged beside the labelled items; None if there were none, and
            then the judge is not accepted, whatever the labels say.
        pairwise: agreement in pairs; None if the judge only gives scores. Its demands then do not apply, and a judge
            accepted so is accepted for scores alone.
        thresholds: what to demand; by default ``AcceptanceThresholds()``.
    """
    limits = thresholds or AcceptanceThresholds()
    judge = calibration.judge
    checks = [
        Check("unscored", calibration.unscored, "<=", limits.max_unscored, "it fails to score"),
        Check("spearman", judge.spearman.mean, ">=", limits.min_spearman, "its order is not people's"),
        Check("spearman_low", judge.spearman.low, ">=", limits.min_spearman_low, "too few labels, or too low"),
        Check("pass_kappa", judge.pass_kappa.mean, ">=", limits.min_pass_kappa, "it passes what people fail"),
        *(_check_pairwise(pairwise, limits) if pairwise else ()),
        *(controls.checks if controls else (_NO_CONTROLS,)),
    ]
    failed = tuple(str(check) for check in checks if not check.passed)
    return Acceptance(not failed, tuple(checks), failed, _compare_baselines(calibration))


def _check_pairwise(evidence: PairwiseEvidence, limits: AcceptanceThresholds) -> tuple[Check, ...]:
    found = evidence.agreement
    return (
        Check("pair_agreement", found.judge.mean, ">=", limits.min_pair_agreement, "it prefers what people do not"),
        Check("pair_agreement_low", found.judge.low, ">", found.longest.mean, "no better than the longer answer"),
        Check("consistency", evidence.consistency.mean, ">=", limits.min_consistency, "the order of answers decides"),
    )


def _compare_baselines(calibration: Calibration) -> dict[str, bool]:
    judge = calibration.judge_hard
    if judge is None:
        return {}
    return {name: _read_spearman(judge) > _read_spearman(other) for name, other in calibration.baselines_hard.items()}


def _read_spearman(report: AgreementReport) -> float:
    """0 for a scorer of one value, which orders nothing."""
    return 0.0 if math.isnan(report.spearman.mean) else report.spearman.mean
