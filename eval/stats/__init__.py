"""Statistics of scores and verdicts, with the item as the unit of chance. Pure functions of numbers and item ids.

Where to look:

- one run: ``one_run``; two runs, or several against one: ``two_runs``, after ``provenance`` has let them be compared;
- pairs of answers: ``pairwise``; more than two models: ``bradley_terry``; answers of unequal length: ``length``;
- people's labels: ``correction`` (the mean), ``agreement``, ``calibration``, ``panel``, ``baselines``;
- is the judge to be trusted: ``validity`` (a run), ``acceptance`` (a judge), ``groups`` (selection, kinship);
- what they are made of: ``items``, ``bootstrap``, ``permutation``, ``proportion``, ``power``, ``checks``.

Every figure with an interval is computed for the data and for resamples of the items by the same code. Items are taken
in the order of their ids, so the same seed gives the same figures whatever the order of the rows.
"""

from eval.stats.acceptance import Acceptance, AcceptanceThresholds, PairwiseEvidence, accept
from eval.stats.agreement import Agreement, AgreementReport, agreement, agreement_report
from eval.stats.baselines import baseline_scores
from eval.stats.bootstrap import Interval
from eval.stats.bradley_terry import BradleyTerry, Game, StrengthDifference, bradley_terry
from eval.stats.calibration import Calibration, PairAgreement, calibrate, pair_agreement
from eval.stats.checks import Check
from eval.stats.correction import CorrectedMean, prediction_powered_mean
from eval.stats.groups import GroupDifference, group_difference
from eval.stats.items import ItemScores
from eval.stats.length import (
    LengthControlled,
    length_controlled_difference,
    length_controlled_mean,
    length_controlled_win_rate,
)
from eval.stats.one_run import NoiseSplit, RunSummary, mean_interval, noise_split, student_interval, summarise
from eval.stats.pairwise import SwappedGames, WinRate, win_rate
from eval.stats.panel import PanelAgreement, panel_agreement
from eval.stats.power import items_needed
from eval.stats.proportion import exact_interval
from eval.stats.provenance import Difference, check_comparable, provenance_differences
from eval.stats.two_runs import (
    Comparison,
    McNemar,
    PairedDifference,
    VerdictWord,
    compare_family,
    compare_runs,
    holm,
    mcnemar,
    paired_difference,
)
from eval.stats.validity import (
    ControlScores,
    Validity,
    ValidityThresholds,
    auc,
    validate,
)

__all__ = [
    "Acceptance",
    "AcceptanceThresholds",
    "Agreement",
    "AgreementReport",
    "BradleyTerry",
    "Calibration",
    "Check",
    "Comparison",
    "ControlScores",
    "CorrectedMean",
    "Difference",
    "Game",
    "GroupDifference",
    "Interval",
    "ItemScores",
    "LengthControlled",
    "McNemar",
    "NoiseSplit",
    "PairAgreement",
    "PairedDifference",
    "PairwiseEvidence",
    "PanelAgreement",
    "RunSummary",
    "StrengthDifference",
    "SwappedGames",
    "Validity",
    "ValidityThresholds",
    "VerdictWord",
    "WinRate",
    "accept",
    "agreement",
    "agreement_report",
    "auc",
    "baseline_scores",
    "bradley_terry",
    "calibrate",
    "check_comparable",
    "compare_family",
    "compare_runs",
    "exact_interval",
    "group_difference",
    "holm",
    "items_needed",
    "length_controlled_difference",
    "length_controlled_mean",
    "length_controlled_win_rate",
    "mcnemar",
    "mean_interval",
    "noise_split",
    "pair_agreement",
    "paired_difference",
    "panel_agreement",
    "prediction_powered_mean",
    "provenance_differences",
    "student_interval",
    "summarise",
    "validate",
    "win_rate",
]
