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
from eval.stats.agreement import Agreement, AgreementReport, measure_agreement, report_agreement
from eval.stats.baselines import score_baselines
from eval.stats.bootstrap import Interval
from eval.stats.bradley_terry import BradleyTerry, Game, StrengthDifference, fit_bradley_terry
from eval.stats.calibration import Calibration, PairAgreement, calibrate, measure_pair_agreement
from eval.stats.checks import Check
from eval.stats.correction import CorrectedMean, correct_mean
from eval.stats.groups import GroupDifference, compare_groups
from eval.stats.items import ItemScores
from eval.stats.length import (
    LengthControlled,
    fit_length_controlled_difference,
    fit_length_controlled_mean,
    fit_length_controlled_win_rate,
)
from eval.stats.one_run import NoiseSplit, RunSummary, bootstrap_mean, compute_student_interval, split_noise, summarise
from eval.stats.pairwise import SwappedGames, WinRate, measure_win_rate
from eval.stats.panel import PanelAgreement, measure_panel_agreement
from eval.stats.power import count_items_needed
from eval.stats.proportion import compute_exact_interval
from eval.stats.provenance import Difference, check_comparable, find_provenance_differences
from eval.stats.two_runs import (
    Comparison,
    McNemar,
    PairedDifference,
    VerdictWord,
    adjust_holm,
    compare_family,
    compare_runs,
    measure_paired_difference,
    run_mcnemar,
)
from eval.stats.validity import (
    ControlScores,
    Validity,
    ValidityThresholds,
    compute_auc,
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
    "adjust_holm",
    "bootstrap_mean",
    "calibrate",
    "check_comparable",
    "compare_family",
    "compare_groups",
    "compare_runs",
    "compute_auc",
    "compute_exact_interval",
    "compute_student_interval",
    "correct_mean",
    "count_items_needed",
    "find_provenance_differences",
    "fit_bradley_terry",
    "fit_length_controlled_difference",
    "fit_length_controlled_mean",
    "fit_length_controlled_win_rate",
    "measure_agreement",
    "measure_pair_agreement",
    "measure_paired_difference",
    "measure_panel_agreement",
    "measure_win_rate",
    "report_agreement",
    "run_mcnemar",
    "score_baselines",
    "split_noise",
    "summarise",
    "validate",
]
