"""A judge against people's scores: agreement beside baselines that read nothing, and whether the judge is accepted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from eval.digest import digest
from eval.errors import EvalDataError
from eval.exact import is_exact
from eval.stats import (
    Acceptance,
    AgreementReport,
    Calibration,
    Check,
    CorrectedMean,
    ItemScores,
    PairwiseEvidence,
    Validity,
    accept,
    calibrate,
    correct_mean,
    measure_pair_agreement,
    score_baselines,
)
from eval.stats.correction import MIN_LABELS
from flows.judged_runs.labels import Labels, answer_mark
from flows.judged_runs.pairs import SideBySide
from flows.judged_runs.runs import JudgedRun
from flows.settings import Settings
from flows.stages.judge.numbers import finite
from flows.tracking.runs import PREFIX, stage_run

CALIBRATED = "judge-calibrate"
"""The experiment of calibrations."""


@dataclass(frozen=True)
class Calibrated:
    """What people's scores say of a judge."""

    calibration: Calibration
    acceptance: Acceptance
    corrected: CorrectedMean | None
    """The run's mean moved to where the labels put it; None without a run or with too few labels."""
    has_controls: bool
    """Whether controls ran with the scores; without them no judge is accepted."""
    has_texts: bool
    """Whether answers and references were known: without them there are no baselines and no hard items."""
    pairwise: PairwiseEvidence | None
    """How it does side by side; None if that was not tried."""


def calibrate_labels(
    labels: Labels, *, run: JudgedRun | None, seed: int, pairwise: PairwiseEvidence | None = None
) -> Calibrated:
    """Compare a judge's scores, those of a run or those in the labels' file, with people's.

    ``pairwise`` is what ``pair_evidence`` found; without it the judge is accepted, or not, for scores alone.

    Raises:
        EvalDataError: neither a run nor a column of the judge's scores; labels that cannot be used.
        UnpairableError: a label is of an item that the run does not have.
    """
    ids = tuple(labels.human)
    _check_answers(labels, run)
    judge, texts = _judge_scores(labels, run), _texts(labels, run)
    names = [name for name in ids if name in texts]
    by_rule = score_baselines([texts[name][0] for name in names], [texts[name][1] for name in names])
    found = calibrate(
        ItemScores(tuple(judge), tuple(judge.values())),
        ItemScores(ids, tuple(labels.human.values())),
        baselines={rule: ItemScores(tuple(names), tuple(scores)) for rule, scores in by_rule.items()} if names else {},
        # without texts no item is known to be hard
        is_reference={name: name not in texts or is_exact(*texts[name]) for name in judge},
        seed=seed,
    )
    corrected = None
    if run is not None and len(ids) >= MIN_LABELS:
        corrected = correct_mean(run.scores, labels.human)
    accepted = accept(found, controls=None if run is None else _controls(run), pairwise=pairwise)
    return Calibrated(found, accepted, corrected, run is not None, bool(texts), pairwise)


def pair_evidence(labels: Labels, baseline: Labels, *, shown: SideBySide, seed: int) -> PairwiseEvidence:
    """Whether a judge prefers what people scored higher, of two runs' answers to the items labelled in both.

    ``labels`` are of the candidate's answers, ``baseline`` of the baseline's, which comes first in ``shown``.

    Raises:
        EvalDataError: labels of other answers; no item labelled in both that has a result and different scores.
    """
    first, second = shown.sides.values()
    _check_answers(baseline, first)
    _check_answers(labels, second)
    (match,) = shown.tournament.matches
    rows = {str(row["id"]): row for row in match.report.rows if row["points"] is not None}
    both = [name for name in labels.human if name in baseline.human and name in rows]
    if match.rate is None or not both:
        raise EvalDataError("no item that is labelled in both files has a result side by side; label the same items")
    apart = {name: labels.human[name] - baseline.human[name] for name in both}
    people = {name: 0.5 + 0.5 * ((value > 0) - (value < 0)) for name, value in apart.items()}
    longer = {name: float(len(rows[name]["left"]) - len(rows[name]["right"])) for name in both}
    judge = {name: float(rows[name]["points"]) for name in both}
    found = measure_pair_agreement(judge, people, length_differences=longer, seed=seed)
    return PairwiseEvidence(found, match.rate.consistency)


def log_calibration(settings: Settings, result: Calibrated, *, run: JudgedRun, labels: Labels, seed: int) -> str:
    """Keep a calibration as a tracked run below the evaluation's; its id.

    Raises TrackingError if the tracking store cannot be reached.
    """
    facts = {"run": run.run_id, "model": run.model, "labels": digest(labels.human), "n": len(labels.human)}
    facts["seed"] = seed
    tags = {
        f"{PREFIX}.judge.accepted": str(result.acceptance.accepted).lower(),
        f"{PREFIX}.judge.group": run.facts["provenance"]["comparable_group"],
        f"{PREFIX}.run.evaluate": run.run_id,
    }
    name = f"{run.facts['model']} against {len(labels.human)} labels"
    key, above = digest(facts)[:16], run.run_id
    with stage_run(settings, stage=CALIBRATED, name=name, key=key, params=facts, tags=tags, parent_run_id=above) as log:
        numbers = _numbers("all", result.calibration.judge)
        if result.calibration.judge_hard is not None:
            numbers |= _numbers("hard", result.calibration.judge_hard)
        for rule, report in result.calibration.baselines.items():
            numbers |= _numbers(f"baseline/{rule}", report)
        if result.pairwise is not None:
            pairs = result.pairwise
            judge, longest = pairs.agreement.judge, pairs.agreement.longest
            numbers |= {"pairs/judge": judge.mean, "pairs/judge_low": judge.low, "pairs/judge_high": judge.high}
            numbers |= {"pairs/longest": longest.mean, "pairs/consistency": pairs.consistency.mean}
        numbers["judge/accepted"] = float(result.acceptance.accepted)
        log.log_metrics(finite(numbers))
        whole = {"calibration": asdict(result.calibration), "acceptance": asdict(result.acceptance)}
        log.log_text(json.dumps(whole, indent=1), "calibration.json")
        return log.run_id


def _numbers(prefix: str, report: AgreementReport) -> dict[str, float]:
    shown = {"spearman": report.spearman, "kendall": report.kendall, "pass_kappa": report.pass_kappa,
             "kappa": report.kappa, "same_side": report.same_side}  # fmt: skip
    found: dict[str, float] = {}
    for name, one in shown.items():
        found |= {f"{prefix}/{name}": one.mean, f"{prefix}/{name}_low": one.low, f"{prefix}/{name}_high": one.high}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _check_answers(labels: Labels, run: JudgedRun | None) -> None:
    given = {str(row["id"]): answer_mark(row["response"]) for row in run.rows} if run else {}
    foreign = [name for name, mark in labels.answers.items() if given.get(name, mark) != mark]
    if run is not None and foreign:
        raise EvalDataError(
            f"{len(foreign)} label(s), such as that of item {foreign[0]!r}, are of other answers than those of run"
            f" {run.run_id} ({run.model}); name the run and the --model that were labelled"
        )


def _judge_scores(labels: Labels, run: JudgedRun | None) -> dict[str, float | None]:
    if run is None:
        if labels.judge is None:
            raise EvalDataError(
                "the labels have no column 'judge', so there is nothing to compare them with; add the judge's scores,"
                " or name the evaluation that has them: --run RUN"
            )
        return labels.judge
    given = {str(row["id"]): row["score"] for row in run.rows}
    # an item that the run does not have stays out here, and is refused with its name where the two are paired
    return {name: given[name] for name in labels.human if name in given}


def _texts(labels: Labels, run: JudgedRun | None) -> dict[str, tuple[str, str]]:
    if run is not None:
        texts = {str(row["id"]): (str(row["response"]), str(row["reference"])) for row in run.rows}
        return {name: texts[name] for name in labels.human if name in texts}
    return labels.texts or {}


def _controls(run: JudgedRun) -> Validity:
    kept = ({**one, "value": math.nan if one["value"] is None else one["value"]} for one in run.facts["checks"])
    checks = tuple(Check(**{field.name: one[field.name] for field in fields(Check)}) for one in kept)
    return Validity(all(one.passed for one in checks), checks, ())
